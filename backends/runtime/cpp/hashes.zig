//! SHA-256 and Ed25519 of Zig's standard library for cospipe-run. `hashes.cpp` declares what is exported.

const std = @import("std");
const Sha256 = std.crypto.hash.sha2.Sha256;
const Ed25519 = std.crypto.sign.Ed25519;

export fn cospipe_sha256_bytes() usize {
    return @sizeOf(Sha256);
}

export fn cospipe_sha256_init(state: *Sha256) void {
    state.* = Sha256.init(.{});
}

export fn cospipe_sha256_update(state: *Sha256, data: [*]const u8, bytes: usize) void {
    state.update(data[0..bytes]);
}

export fn cospipe_sha256_final(state: *Sha256, digest: *[32]u8) void {
    state.final(digest);
}

export fn cospipe_ed25519_verifies(
    message: [*]const u8,
    bytes: usize,
    signature: *const [64]u8,
    key: *const [32]u8,
) bool {
    const public_key = Ed25519.PublicKey.fromBytes(key.*) catch return false;
    Ed25519.Signature.fromBytes(signature.*).verify(message[0..bytes], public_key) catch return false;
    return true;
}

// SHA-256 and Ed25519, as Zig's standard library has them (hashes.zig).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cospipe {

using Ed25519Key = std::array<uint8_t, 32>;
using Ed25519Signature = std::array<uint8_t, 64>;

// The SHA-256 of what it is given piece by piece.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t bytes);
  // The digest as 64 hexadecimal digits; then nothing more can be added.
  std::string hexadecimal();

 private:
  alignas(64) std::array<unsigned char, 256> state_;
};

// Tells whether the owner of a public key signed a message.
bool is_signed(std::string_view message, const Ed25519Signature& signature, const Ed25519Key& public_key);

}  // namespace cospipe

#include "hashes.h"

#include "errors.h"

extern "C" {
size_t cospipe_sha256_bytes();
void cospipe_sha256_init(void* state);
void cospipe_sha256_update(void* state, const unsigned char* data, size_t bytes);
void cospipe_sha256_final(void* state, unsigned char* digest);
bool cospipe_ed25519_verifies(const unsigned char* message, size_t bytes, const unsigned char* signature,
                              const unsigned char* key);
}

namespace cospipe {

Sha256::Sha256() {
  if (cospipe_sha256_bytes() > state_.size()) throw Error("This Zig's SHA-256 needs more room than hashes.h has.");
  cospipe_sha256_init(state_.data());
}

void Sha256::update(const void* data, size_t bytes) {
  cospipe_sha256_update(state_.data(), static_cast<const unsigned char*>(data), bytes);
}

std::string Sha256::hexadecimal() {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::array<unsigned char, 32> digest;
  cospipe_sha256_final(state_.data(), digest.data());
  std::string text;
  for (const unsigned char byte : digest) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

bool is_signed(std::string_view message, const Ed25519Signature& signature, const Ed25519Key& public_key) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
  return cospipe_ed25519_verifies(bytes, message.size(), signature.data(), public_key.data());
}

}  // namespace cospipe

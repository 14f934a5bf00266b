#include "public_key.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

#include "errors.h"

namespace cospipe {

namespace {

constexpr size_t kMostBytes = 65536;
constexpr const char* kBegin = "-----BEGIN PUBLIC KEY-----";
constexpr const char* kEnd = "-----END PUBLIC KEY-----";

// What stands in front of the key in a SubjectPublicKeyInfo of Ed25519 (RFC 8410).
constexpr std::array<uint8_t, 12> kInfoBytes = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw UsageError("The public key '" + path + "' cannot be read.");
  std::string text(kMostBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

std::optional<std::vector<uint8_t>> decode_base64(const std::string& text) {
  static const std::string kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<uint8_t> bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char character : text) {
    if (character == '\n' || character == '\r' || character == '=') continue;
    const size_t digit = kDigits.find(character);
    if (digit == std::string::npos) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(digit)) & 0xffff;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<uint8_t>(bits >> count));
  }
  return bytes;
}

std::optional<std::vector<uint8_t>> decode_pem(const std::string& text) {
  const size_t begin = text.find(kBegin);
  if (begin == std::string::npos) return std::nullopt;
  const size_t start = begin + std::string(kBegin).size();
  const size_t end = text.find(kEnd, start);
  if (end == std::string::npos) return std::nullopt;
  return decode_base64(text.substr(start, end - start));
}

}  // namespace

Ed25519Key read_public_key(const std::string& path) {
  const std::string text = read_text(path);
  Ed25519Key key;
  if (text.size() == key.size()) {
    std::copy(text.begin(), text.end(), key.begin());
    return key;
  }
  const std::optional<std::vector<uint8_t>> info = decode_pem(text);
  const bool is_key = info && info->size() == kInfoBytes.size() + key.size() &&
                      std::equal(kInfoBytes.begin(), kInfoBytes.end(), info->begin());
  if (!is_key) {
    throw UsageError(path + " is no Ed25519 public key: give 32 bytes, or the PEM that openssl pkey -pubout writes.");
  }
  std::copy(info->begin() + kInfoBytes.size(), info->end(), key.begin());
  return key;
}

}  // namespace cospipe

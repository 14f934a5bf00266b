#include "crc32.h"

#include <array>
#include <cstring>

namespace cospipe {

namespace {

constexpr uint32_t kPolynomial = 0xedb88320;  // bits reversed
constexpr size_t kBytesAtOnce = 8;

using Table = std::array<uint32_t, 256>;

// Table k says what a byte does to the checksum when k bytes follow it.
constexpr std::array<Table, kBytesAtOnce> make_tables() {
  std::array<Table, kBytesAtOnce> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? value >> 1 ^ kPolynomial : value >> 1;
    tables[0][byte] = value;
  }
  for (size_t k = 1; k < kBytesAtOnce; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t value = tables[k - 1][byte];
      tables[k][byte] = value >> 8 ^ tables[0][value & 255];
    }
  }
  return tables;
}

constexpr std::array<Table, kBytesAtOnce> kTables = make_tables();

// Eight bytes at once: a table look-up for each, none of which waits for another.
uint32_t add_eight(uint32_t crc, const unsigned char* bytes) {
  uint32_t value = 0;
  for (uint32_t i = 0; i < 4; ++i) value ^= kTables[7 - i][(crc >> 8 * i & 255) ^ bytes[i]];
  for (uint32_t i = 4; i < 8; ++i) value ^= kTables[7 - i][bytes[i]];
  return value;
}

}  // namespace

uint32_t crc32(const void* data, uint64_t bytes, uint32_t before) {
  const auto* next = static_cast<const unsigned char*>(data);
  uint32_t crc = ~before;
  for (; bytes >= kBytesAtOnce; bytes -= kBytesAtOnce, next += kBytesAtOnce) crc = add_eight(crc, next);
  for (; bytes > 0; --bytes, ++next) crc = crc >> 8 ^ kTables[0][(crc ^ *next) & 255];
  return ~crc;
}

}  // namespace cospipe

// The checksum of zip archives.
#pragma once

#include <cstdint>

namespace cospipe {

// The CRC-32 of some bytes behind others, whose CRC-32 is `before` (0: none).
uint32_t crc32(const void* data, uint64_t bytes, uint32_t before = 0);

}  // namespace cospipe

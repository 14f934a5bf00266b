// Any bytes as a safetensors file: it is refused with a sentence, or every tensor can be read and is aligned.
#include <cstring>

#include "errors.h"
#include "memory_file.h"
#include "tensor_file.h"

namespace cospipe {

// Reads every byte of a tensor, so that the sanitizers see whether it is there.
static unsigned sum_of(const Data& data) {
  unsigned sum = 0;
  for (uint64_t i = 0; i < data.bytes; ++i) sum += static_cast<const unsigned char*>(data.begin)[i];
  return sum;
}

static void read_all(const std::string& path, size_t file_bytes) {
  const TensorFile file(path);
  uint64_t bytes = 0;
  for (const auto& [name, entry] : file.header().entries) {
    const Data data = file.tensor(name);
    expect(file.holds(entry.spec) && is_aligned(data.begin) && data.bytes == entry.spec.bytes());
    const unsigned sum = sum_of(data);
    file.release(name);
    expect(sum == sum_of(data));
    bytes += data.bytes;
  }
  expect(bytes <= file_bytes);  // no byte belongs to two
}

}  // namespace cospipe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const cospipe::MemoryFile file(data, bytes);
  try {
    cospipe::read_all(file.path(), bytes);
  } catch (const cospipe::Error& error) {
    cospipe::expect(*error.what() != '\0');
  }
  return 0;
}

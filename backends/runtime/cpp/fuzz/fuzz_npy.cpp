// Any bytes as a .npy file: it is refused with a sentence, or there is an array of just that many bytes.
#include "errors.h"
#include "memory_file.h"
#include "npz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const cospipe::MemoryFile file(data, bytes);
  try {
    const cospipe::Array array = cospipe::read_npy(file.path());
    cospipe::expect(array.data.bytes == array.spec.bytes() && array.data.bytes <= bytes);
  } catch (const cospipe::Error& error) {
    cospipe::expect(*error.what() != '\0');
  }
  return 0;
}

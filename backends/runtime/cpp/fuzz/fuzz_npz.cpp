// Any bytes as a .npz file: it is refused with a sentence, or there are arrays that are the same when they are written
// and read again.
#include <unistd.h>

#include <cstring>

#include "errors.h"
#include "memory_file.h"
#include "npz.h"

namespace cospipe {

static void expect_same(const Array& array, const Array& again) {
  expect(array.spec.shape == again.spec.shape && array.spec.type == again.spec.type);
  expect(array.data.bytes == again.data.bytes);
  expect(array.data.bytes == 0 || std::memcmp(array.data.begin, again.data.begin, array.data.bytes) == 0);
}

static void read_write_read(const std::string& path) {
  std::vector<Array> arrays;
  for (const auto& [name, array] : read_npz(path)) {
    expect(name == array.spec.name && array.data.bytes == array.spec.bytes());
    arrays.push_back(array);
  }
  const std::string written = "/dev/shm/cospipe-fuzz-" + std::to_string(::getpid()) + ".npz";
  write_npz(written, arrays);
  const std::map<std::string, Array> again = read_npz(written);
  ::unlink(written.c_str());
  expect(again.size() == arrays.size());
  for (const Array& array : arrays) expect_same(array, again.at(array.spec.name));
}

}  // namespace cospipe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const cospipe::MemoryFile file(data, bytes);
  try {
    cospipe::read_write_read(file.path());
  } catch (const cospipe::Error& error) {
    cospipe::expect(*error.what() != '\0');
  }
  return 0;
}

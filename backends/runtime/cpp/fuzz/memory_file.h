// A file in memory, for readers that want a path.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "file_descriptor.h"

namespace cospipe {

class MemoryFile {
 public:
  MemoryFile(const void* data, size_t bytes) : file_(::memfd_create("fuzzed", MFD_CLOEXEC)) {
    const auto* begin = static_cast<const char*>(data);
    for (size_t written = 0; written < bytes;) {
      const ssize_t done = ::write(file_.get(), begin + written, bytes - written);
      if (done <= 0) std::abort();
      written += static_cast<size_t>(done);
    }
  }

  std::string path() const { return "/proc/self/fd/" + std::to_string(file_.get()); }

 private:
  FileDescriptor file_;
};

// Ends the program where a reader promised something else than it did: libFuzzer keeps the input.
inline void expect(bool is_kept) {
  if (!is_kept) std::abort();
}

inline bool is_aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

}  // namespace cospipe

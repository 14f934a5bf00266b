#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "errors.h"
#include "file_descriptor.h"

namespace cospipe {

Data map_file(const std::string& path) {
  // without O_NONBLOCK a named pipe would make this wait for its writer
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) {
    throw Error(path + ": " + (errno == ENOENT ? "there is no such file" : std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) throw Error(path + ": it is not a file");
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes == 0) return {};
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (memory == MAP_FAILED) throw Error(path + ": it cannot be mapped: " + std::strerror(errno));
  const auto unmap = [bytes](const void* mapping) { ::munmap(const_cast<void*>(mapping), bytes); };
  return {std::shared_ptr<const void>(memory, unmap), memory, bytes};
}

}  // namespace cospipe

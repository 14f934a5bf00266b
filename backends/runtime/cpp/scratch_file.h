// Writing files so that nobody ever sees half of one.
#pragma once

#include <cstdint>
#include <string>

#include "file_descriptor.h"

namespace cospipe {

// Writes everything, however long that takes; returns 0 or what errno says. SIGPIPE must be ignored by the program.
int write_all(int file, const void* data, uint64_t bytes);

// A file that has another name (".NAME.new", in the same directory) until it is whole. Its destructor removes what did
// not become whole. All functions throw Error.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& path);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  void write(const void* data, uint64_t bytes);
  // Waits until the bytes are on the disk, then gives the file its name, in the place of any that had it.
  void commit();

  static std::string name_for(const std::string& path);

 private:
  [[noreturn]] void fail(int error) const;

  const std::string path_, scratch_;
  const FileDescriptor file_;
  bool is_whole_ = false;
};

}  // namespace cospipe

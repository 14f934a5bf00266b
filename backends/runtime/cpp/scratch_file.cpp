#include "scratch_file.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "errors.h"

namespace cospipe {

namespace {

constexpr uint64_t kMostBytesAtOnce = 1 << 30;  // Linux writes at most 2 GiB at once

void wait_for_room(int file) {
  pollfd waiting{file, POLLOUT, 0};
  ::poll(&waiting, 1, -1);
}

}  // namespace

int write_all(int file, const void* data, uint64_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file, next, std::min(bytes, kMostBytesAtOnce));
    if (written >= 0) {
      next += written;
      bytes -= static_cast<uint64_t>(written);
    } else if (errno == EAGAIN) {
      wait_for_room(file);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

std::string ScratchFile::name_for(const std::string& path) {
  const size_t name = path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1;
  return path.substr(0, name) + "." + path.substr(name) + ".new";
}

ScratchFile::ScratchFile(const std::string& path)
    : path_(path),
      scratch_(name_for(path)),
      file_(::open(scratch_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666)) {
  if (!file_.is_open()) fail(errno);
}

ScratchFile::~ScratchFile() {
  if (!is_whole_) ::unlink(scratch_.c_str());
}

void ScratchFile::write(const void* data, uint64_t bytes) {
  if (const int error = write_all(file_.get(), data, bytes)) fail(error);
}

void ScratchFile::commit() {
  if (::fsync(file_.get()) != 0) fail(errno);
  if (std::rename(scratch_.c_str(), path_.c_str()) != 0) fail(errno);
  is_whole_ = true;
}

void ScratchFile::fail(int error) const {
  throw Error("Nothing could be written to " + path_ + ": " + std::strerror(error) + ".");
}

}  // namespace cospipe

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "errors.h"
#include "file_descriptor.h"
#include "frames.h"

namespace cospipe {

namespace {

constexpr const char* kStandardInput = "-";
constexpr uint64_t kMostBytesAtOnce = 1 << 30;  // Linux reads at most 2 GiB at once
constexpr uint64_t kMostFrameBytes = uint64_t{1} << 62;

std::string shown(const std::string& file) { return file == kStandardInput ? "standard input" : file; }

[[noreturn]] void fail(const std::string& file, int error) {
  throw Error("The raw frames cannot be read from " + shown(file) + ": " + std::strerror(error) + ".");
}

[[noreturn]] void fail_cut_off(uint64_t number, uint64_t found, uint64_t wanted) {
  throw Error("Raw frame " + std::to_string(number) + " is cut off: " + std::to_string(found) + " of " +
              std::to_string(wanted) + " bytes are there.");
}

// Frames of a regular file. Each one is mapped for itself, so that memory stays flat however long the file is.
class MappedFrames : public FrameSource {
 public:
  MappedFrames(std::vector<uint64_t> input_bytes, uint64_t frame_bytes, std::string name, FileDescriptor file,
               const Stop& stop)
      : input_bytes_(std::move(input_bytes)),
        frame_bytes_(frame_bytes),
        name_(std::move(name)),
        file_(std::move(file)),
        stop_(stop),
        count_(bytes_now() / frame_bytes) {}

  std::optional<Frame> next() override {
    if (stop_.is_requested()) return std::nullopt;
    const uint64_t bytes = bytes_now();
    const uint64_t left = bytes - std::min(bytes, offset_);
    if (left == 0) return std::nullopt;
    if (left < frame_bytes_) fail_cut_off(offset_ / frame_bytes_, left, frame_bytes_);
    const Data mapped = map_frame();
    Frame frame;
    const char* begin = static_cast<const char*>(mapped.begin);
    for (uint64_t bytes : input_bytes_) {
      frame.push_back(aligned({mapped.owner, begin, bytes}));
      begin += bytes;
    }
    offset_ += frame_bytes_;
    return frame;
  }

  std::optional<uint64_t> count() const override { return count_; }

 private:
  uint64_t bytes_now() const {
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0) fail(name_, errno);
    return static_cast<uint64_t>(status.st_size);
  }

  Data map_frame() const {
    const uint64_t before = offset_ % static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t bytes = before + frame_bytes_;
    void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file_.get(),
                          static_cast<off_t>(offset_ - before));
    if (memory == MAP_FAILED) fail(name_, errno);
    const auto unmap = [bytes](const void* mapping) { ::munmap(const_cast<void*>(mapping), bytes); };
    return {std::shared_ptr<const void>(memory, unmap), static_cast<const char*>(memory) + before, frame_bytes_};
  }

  const std::vector<uint64_t> input_bytes_;
  const uint64_t frame_bytes_;
  const std::string name_;
  const FileDescriptor file_;
  const Stop& stop_;
  const uint64_t count_;
  uint64_t offset_ = 0;
};

// Frames of a pipe, or of whatever else can only be read.
class StreamedFrames : public FrameSource {
 public:
  StreamedFrames(std::vector<uint64_t> input_bytes, uint64_t frame_bytes, std::string name, FileDescriptor file,
                 const Stop& stop)
      : input_bytes_(std::move(input_bytes)),
        frame_bytes_(frame_bytes),
        name_(std::move(name)),
        file_(std::move(file)),
        stop_(stop) {}

  std::optional<Frame> next() override {
    Frame frame;
    uint64_t found = 0;
    for (uint64_t bytes : input_bytes_) {
      const Buffer buffer(bytes);
      found += read_into(buffer);
      frame.push_back(buffer.data());
    }
    if (stop_.is_requested() || found == 0) return std::nullopt;
    if (found < frame_bytes_) fail_cut_off(number_, found, frame_bytes_);
    number_ += 1;
    return frame;
  }

 private:
  // Reads until the buffer is full, the stream ends or no more is wanted; returns how many bytes came.
  uint64_t read_into(const Buffer& buffer) {
    uint64_t filled = 0;
    while (filled < buffer.bytes() && !has_ended_ && wait_for_bytes()) {
      char* room = static_cast<char*>(buffer.begin()) + filled;
      const ssize_t found = ::read(file_.get(), room, std::min(buffer.bytes() - filled, kMostBytesAtOnce));
      if (found < 0 && errno != EINTR && errno != EAGAIN) fail(name_, errno);
      if (found == 0) has_ended_ = true;
      if (found > 0) filled += static_cast<uint64_t>(found);
    }
    return filled;
  }

  // Returns false when no more is wanted.
  bool wait_for_bytes() const {
    pollfd waiting[] = {{file_.get(), POLLIN, 0}, {stop_.readable(), POLLIN, 0}};
    while (::poll(waiting, 2, -1) < 0) {
      if (errno != EINTR) fail(name_, errno);
    }
    return !stop_.is_requested();
  }

  const std::vector<uint64_t> input_bytes_;
  const uint64_t frame_bytes_;
  const std::string name_;
  const FileDescriptor file_;
  const Stop& stop_;
  bool has_ended_ = false;
  uint64_t number_ = 0;
};

// A named pipe is opened without waiting for whoever writes into it: that is what poll() is for.
FileDescriptor open_file(const std::string& file) {
  const bool is_standard = file == kStandardInput;
  FileDescriptor opened(is_standard ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                                    : ::open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!opened.is_open()) {
    throw UsageError("The raw frames cannot be read from " + shown(file) + ": " + std::strerror(errno) + ".");
  }
  return opened;
}

}  // namespace

std::unique_ptr<FrameSource> raw_frames(const Manifest& manifest, const std::string& file, const Stop& stop) {
  std::vector<uint64_t> input_bytes;
  uint64_t frame_bytes = 0;
  for (const TensorSpec& spec : manifest.inputs) {
    frame_bytes += input_bytes.emplace_back(spec.bytes());
    if (frame_bytes > kMostFrameBytes) throw UsageError("A frame of this network does not fit into any memory.");
  }
  if (frame_bytes == 0) {
    throw UsageError("A frame of this network has no bytes, so raw frames cannot be told apart.");
  }
  FileDescriptor opened = open_file(file);
  struct stat status {};
  if (::fstat(opened.get(), &status) != 0) fail(file, errno);
  if (S_ISDIR(status.st_mode)) fail(file, EISDIR);
  // standard input may have been read from already, so it is not read from the file's beginning
  if (S_ISREG(status.st_mode) && file != kStandardInput) {
    return std::make_unique<MappedFrames>(std::move(input_bytes), frame_bytes, file, std::move(opened), stop);
  }
  return std::make_unique<StreamedFrames>(std::move(input_bytes), frame_bytes, file, std::move(opened), stop);
}

}  // namespace cospipe

#include "frames.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "errors.h"

namespace cospipe {

Stop::Stop() {
  if (::pipe2(pipe_, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw Error(std::string("A pipe could not be made: ") + std::strerror(errno) + ".");
  }
}

Stop::~Stop() {
  ::close(pipe_[0]);
  ::close(pipe_[1]);
}

void Stop::request() {
  if (requested_.exchange(true)) return;
  const char byte = 0;
  while (::write(pipe_[1], &byte, 1) < 0 && errno == EINTR) continue;
}

namespace {

class FirstFrames : public FrameSource {
 public:
  FirstFrames(std::unique_ptr<FrameSource> source, uint64_t count) : source_(std::move(source)), count_(count) {}

  std::optional<Frame> next() override {
    if (taken_ == count_) return std::nullopt;
    taken_ += 1;
    return source_->next();
  }

  std::optional<uint64_t> count() const override { return std::min(count_, source_->count().value_or(count_)); }

 private:
  const std::unique_ptr<FrameSource> source_;
  const uint64_t count_;
  uint64_t taken_ = 0;
};

}  // namespace

std::unique_ptr<FrameSource> first_frames(std::unique_ptr<FrameSource> source, uint64_t count) {
  return std::make_unique<FirstFrames>(std::move(source), count);
}

}  // namespace cospipe

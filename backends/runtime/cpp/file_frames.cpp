#include <algorithm>
#include <limits>

#include "errors.h"
#include "frame_file.h"
#include "frames.h"

namespace cospipe {

namespace {

class FileFrames : public FrameSource {
 public:
  FileFrames(std::vector<Frame> frames, uint64_t repeat, const Stop& stop)
      : frames_(std::move(frames)), repeat_(repeat), stop_(stop) {}

  std::optional<Frame> next() override {
    if (stop_.is_requested() || next_ == count()) return std::nullopt;
    return frames_[next_++ % frames_.size()];
  }

  std::optional<uint64_t> count() const override { return frames_.size() * repeat_; }

 private:
  const std::vector<Frame> frames_;
  const uint64_t repeat_;
  const Stop& stop_;
  uint64_t next_ = 0;
};

}  // namespace

std::unique_ptr<FrameSource> file_frames(const Manifest& manifest, const std::vector<std::string>& files,
                                         uint64_t repeat, const Stop& stop) {
  std::vector<Frame> frames;
  std::vector<std::string> problems;
  for (const std::string& file : files) {
    try {
      Frame& frame = frames.emplace_back(read_frame(manifest, file));
      for (Data& input : frame) input = aligned(input);  // once, not for each time it is repeated
    } catch (const Error& error) {
      problems.emplace_back(error.what());
    }
  }
  if (!problems.empty()) throw UsageError(several("These inputs cannot be used", problems));
  if (repeat > std::numeric_limits<uint64_t>::max() / std::max<uint64_t>(frames.size(), 1))
    throw UsageError("--repeat " + std::to_string(repeat) + " makes more frames than can be counted.");
  return std::make_unique<FileFrames>(std::move(frames), repeat, stop);
}

}  // namespace cospipe

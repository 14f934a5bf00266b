#include <algorithm>
#include <cstring>
#include <random>

#include "float16.h"
#include "frames.h"

namespace cospipe {

namespace {

constexpr uint64_t kDifferentFrames = 4;

using Generator = std::mt19937_64;

template <typename Number, typename Convert>
void fill(const Buffer& buffer, Generator& generator, Convert convert) {
  std::normal_distribution<double> normal;
  auto* numbers = static_cast<Number*>(buffer.begin());
  for (uint64_t i = 0; i < buffer.bytes() / sizeof(Number); ++i) numbers[i] = convert(normal(generator));
}

Data synthetic(const TensorSpec& spec, Generator& generator) {
  const Buffer buffer(spec.bytes());
  if (spec.type == ElementType::kFloat64)
    fill<double>(buffer, generator, [](double number) { return number; });
  else if (spec.type == ElementType::kFloat32)
    fill<float>(buffer, generator, [](double number) { return static_cast<float>(number); });
  else if (spec.type == ElementType::kFloat16)
    fill<uint16_t>(buffer, generator, float16_of_number);
  else
    std::memset(buffer.begin(), 0, buffer.bytes());
  return buffer.data();
}

class SyntheticFrames : public FrameSource {
 public:
  SyntheticFrames(std::vector<Frame> few, uint64_t count, const Stop& stop)
      : few_(std::move(few)), count_(count), stop_(stop) {}

  std::optional<Frame> next() override {
    if (stop_.is_requested() || (count_ != 0 && next_ == count_)) return std::nullopt;
    return few_[next_++ % few_.size()];
  }

  std::optional<uint64_t> count() const override { return count_ == 0 ? std::nullopt : std::optional(count_); }

 private:
  const std::vector<Frame> few_;
  const uint64_t count_;
  const Stop& stop_;
  uint64_t next_ = 0;
};

}  // namespace

std::unique_ptr<FrameSource> synthetic_frames(const Manifest& manifest, uint64_t count, const Stop& stop) {
  Generator generator;  // always begins with the same number
  std::vector<Frame> few(count == 0 ? kDifferentFrames : std::min(count, kDifferentFrames));
  for (Frame& frame : few) {
    for (const TensorSpec& spec : manifest.inputs) frame.push_back(synthetic(spec, generator));
  }
  return std::make_unique<SyntheticFrames>(std::move(few), count, stop);
}

}  // namespace cospipe

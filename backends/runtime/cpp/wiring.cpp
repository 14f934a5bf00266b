#include "wiring.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

namespace cospipe {
namespace {

constexpr double kLeastSpeedRatio = 2.5;

// How many frames a stage may have taken and not handed out in order: fast replicas run ahead of slow ones.
size_t frames_at_work(const Stage& stage) {
  if (stage.replicas.size() == 1) return 1;
  const auto by_time = [](const Replica& a, const Replica& b) { return a.predicted_us < b.predicted_us; };
  const auto [fastest, slowest] = std::minmax_element(stage.replicas.begin(), stage.replicas.end(), by_time);
  const double ratio = fastest->predicted_us > 0 ? slowest->predicted_us / fastest->predicted_us : 1.0;
  return stage.replicas.size() * (1 + static_cast<size_t>(std::ceil(std::max(ratio, kLeastSpeedRatio))));
}

}  // namespace

Wiring wire(const Manifest& manifest) {
  Wiring wiring;
  std::map<std::string, size_t> index;
  const auto index_of = [&index](const TensorSpec& spec) { return index.emplace(spec.name, index.size()).first->second; };
  const auto all = [&index_of](const std::vector<TensorSpec>& specs) {
    std::vector<size_t> result;
    for (const TensorSpec& spec : specs) result.push_back(index_of(spec));
    return result;
  };
  all(manifest.inputs);
  for (const Stage& stage : manifest.stages) wiring.stages.push_back({all(stage.inputs), all(stage.outputs), {}});
  wiring.results = all(manifest.outputs);
  wiring.value_count = index.size();
  std::set<size_t> needed(wiring.results.begin(), wiring.results.end());
  for (auto stage = wiring.stages.rbegin(); stage != wiring.stages.rend(); ++stage) {
    for (size_t value = 0; value < wiring.value_count; ++value)
      if (needed.count(value) == 0) stage->done_with.push_back(value);
    needed.insert(stage->inputs.begin(), stage->inputs.end());
  }
  return wiring;
}

size_t frames_inside(const Manifest& manifest, size_t queue_depth) {
  size_t sum = 0;
  for (const Stage& stage : manifest.stages) sum += queue_depth + frames_at_work(stage);
  return sum;
}

}  // namespace cospipe

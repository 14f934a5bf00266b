#include "verify.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <thread>

#include "adapter.h"
#include "errors.h"
#include "stage.h"

namespace cospipe {
namespace {

double half_to_double(uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 0x1f) return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(fraction + 0x400, exponent - 25);
}

template <typename Number>
double number_at(const void* begin, uint64_t index) {
  Number value;
  std::memcpy(&value, static_cast<const char*>(begin) + index * sizeof(Number), sizeof(Number));
  return static_cast<double>(value);
}

using NumberAt = double (*)(const void*, uint64_t);

NumberAt reader_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat64:
      return number_at<double>;
    case ElementType::kFloat32:
      return number_at<float>;
    case ElementType::kFloat16:
      return [](const void* begin, uint64_t index) {
        return half_to_double(static_cast<uint16_t>(number_at<uint16_t>(begin, index)));
      };
    case ElementType::kInt64:
      return number_at<int64_t>;
    case ElementType::kInt32:
      return number_at<int32_t>;
    case ElementType::kInt16:
      return number_at<int16_t>;
    case ElementType::kInt8:
      return number_at<int8_t>;
    default:
      return number_at<uint8_t>;
  }
}

// The reference frame again and again, or results kept: what the whole pipeline is verified with.
class RepeatedFrame : public FrameSource {
 public:
  RepeatedFrame(Frame frame, size_t count) : frame_(std::move(frame)), count_(count) {}
  std::optional<Frame> next() override {
    if (count_ == 0) return std::nullopt;
    count_ -= 1;
    return frame_;
  }

 private:
  Frame frame_;
  size_t count_;
};

class WorstError : public ResultSink {
 public:
  WorstError(const std::vector<TensorSpec>& specs, const TensorFile& reference)
      : specs_(specs), reference_(reference), errors_(specs.size(), 0.0) {}
  void add(uint64_t, const Frame& result) override {
    for (size_t i = 0; i < specs_.size(); ++i) {
      const double error = relative_error(specs_[i], result[i], reference_.tensor(specs_[i].name));
      errors_[i] = std::max(errors_[i], error);
    }
  }
  void finish() override {}
  const std::vector<double>& errors() const { return errors_; }

 private:
  const std::vector<TensorSpec>& specs_;
  const TensorFile& reference_;
  std::vector<double> errors_;
};

std::string part_name(const Stage& stage, size_t build) {
  if (build == 0) return stage.name;
  const StageBuild& other = stage.builds[build];
  return stage.name + " for " + std::to_string(other.threads) + " " + other.core_type;
}

std::vector<Check> verify_build(const Bundle& bundle, const std::shared_ptr<const TvmRuntime>& runtime, size_t stage,
                                size_t build, const Overrides& overrides, const TensorFile& reference) {
  const Stage& files = bundle.manifest.stages[stage];
  const std::vector<int> cpus = available_cpus();
  const int threads = std::min(files.builds[build].threads, static_cast<int>(cpus.size()));
  runtime->configure_thread_pool(cpus, threads);
  const auto library = std::make_shared<const StageLibrary>(runtime, bundle, stage, build);
  const Weights weights = library->prepare(overrides);
  StageExecutable executable(library);
  std::vector<TvmObject> inputs;
  for (const TensorSpec& spec : files.inputs) inputs.push_back(runtime->tensor(spec, reference.tensor(spec.name)));
  const std::vector<TvmObject> outputs = executable.call(inputs, weights);
  std::vector<Check> checks;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorSpec& spec = files.outputs[i];
    const double error = relative_error(spec, data_of(outputs[i]), reference.tensor(spec.name));
    checks.push_back({part_name(files, build), spec.name, error, bundle.manifest.relative_tolerance});
  }
  return checks;
}

// Runs it in a thread of its own, because a TVM pool belongs to the thread that makes it, and is made once.
std::vector<Check> in_own_thread(const std::function<std::vector<Check>()>& work, const std::string& part) {
  std::vector<Check> checks;
  std::exception_ptr failure;
  std::thread([&] {
    try {
      checks = work();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure == nullptr) return checks;
  try {
    std::rethrow_exception(failure);
  } catch (const std::bad_alloc&) {
    throw Error(part + " failed: there is no memory left.");
  } catch (const std::exception& error) {
    throw Error(part + " failed: " + error.what());
  }
}

size_t most_replicas(const Manifest& manifest) {
  size_t most = 0;
  for (const Stage& stage : manifest.stages) most = std::max(most, stage.replicas.size());
  return most;
}

// Enough frames to keep all replicas of a stage busy at once.
std::vector<Check> verify_whole(const std::shared_ptr<const Bundle>& bundle,
                                const std::shared_ptr<const TvmRuntime>& runtime, const PipelineOptions& options,
                                const TensorFile& reference) {
  const Manifest& manifest = bundle->manifest;
  Frame frame;
  for (const TensorSpec& spec : manifest.inputs) frame.push_back(reference.tensor(spec.name));
  RepeatedFrame source(frame, most_replicas(manifest) + 1);
  WorstError sink(manifest.outputs, reference);
  Stop stop;
  Pipeline(bundle, runtime, options).run(source, sink, {}, stop);
  std::vector<Check> checks;
  for (size_t i = 0; i < manifest.outputs.size(); ++i)
    checks.push_back({"whole", manifest.outputs[i].name, sink.errors()[i], manifest.relative_tolerance});
  return checks;
}

void check_holds(const TensorFile& reference, const Manifest& manifest, const std::string& file) {
  std::vector<std::string> problems;
  const auto look_for = [&](const std::vector<TensorSpec>& specs) {
    for (const TensorSpec& spec : specs)
      if (!reference.holds(spec)) problems.push_back(file + " does not hold " + spec.text());
  };
  look_for(manifest.inputs);
  for (const Stage& stage : manifest.stages) {
    look_for(stage.inputs);
    look_for(stage.outputs);
  }
  if (!problems.empty()) throw UsageError(several("This reference does not fit the bundle", problems));
}

}  // namespace

double relative_error(const TensorSpec& spec, const Data& actual, const Data& expected) {
  const NumberAt number = reader_of(spec.type);
  const uint64_t count = expected.bytes / element_bytes(spec.type);
  double scale = 0, worst = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const double ours = number(actual.begin, i), theirs = number(expected.begin, i);
    if (std::isfinite(theirs)) scale = std::max(scale, std::abs(theirs));
    if (ours == theirs) continue;
    if (!std::isfinite(ours) || !std::isfinite(theirs)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(ours - theirs));
  }
  return worst / (scale > 0 ? scale : 1.0);
}

std::vector<Check> verify(std::shared_ptr<const Bundle> bundle, std::shared_ptr<const TvmRuntime> runtime,
                          const PipelineOptions& options, const std::string& reference_file) {
  const Manifest& manifest = bundle->manifest;
  const std::string file = reference_file.empty() ? bundle->file(manifest.reference) : reference_file;
  const TensorFile reference(file);
  check_holds(reference, manifest, file);
  std::vector<Overrides> overrides(manifest.stages.size());
  if (names_adapter(options.adapter)) overrides = adapter_overrides(manifest, bundle->weights, options.adapter);
  std::vector<Check> checks;
  for (size_t stage = 0; stage < manifest.stages.size(); ++stage) {
    for (size_t build = 0; build < manifest.stages[stage].builds.size(); ++build) {
      const auto work = [&] { return verify_build(*bundle, runtime, stage, build, overrides[stage], reference); };
      const std::vector<Check> some = in_own_thread(work, part_name(manifest.stages[stage], build));
      checks.insert(checks.end(), some.begin(), some.end());
    }
  }
  const std::vector<Check> whole = verify_whole(bundle, runtime, options, reference);
  checks.insert(checks.end(), whole.begin(), whole.end());
  return checks;
}

nlohmann::ordered_json summary(const std::vector<Check>& checks) {
  auto rows = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    // JSON has no infinity: what cannot be compared is null.
    const bool is_finite = std::isfinite(check.relative_error);
    const auto error = is_finite ? nlohmann::ordered_json(check.relative_error) : nlohmann::ordered_json(nullptr);
    rows.push_back({{"part", check.part},
                    {"tensor", check.tensor},
                    {"relative_error", error},
                    {"tolerance", check.tolerance},
                    {"passed", check.passed()}});
  }
  const bool passed = std::all_of(checks.begin(), checks.end(), [](const Check& check) { return check.passed(); });
  return {{"passed", passed}, {"checks", rows}};
}

std::string table(const std::vector<Check>& checks) {
  std::string text;
  for (const Check& check : checks) {
    char line[512];
    std::snprintf(line, sizeof line, "%-32s %-32s %.1e of its scale, tolerance %.0e: %s\n", check.part.c_str(),
                  check.tensor.c_str(), check.relative_error, check.tolerance, check.passed() ? "ok" : "WRONG");
    text += line;
  }
  return text;
}

}  // namespace cospipe

#include "stage.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.h"

namespace cospipe {
namespace {

constexpr int64_t kCpu = 1;
constexpr int64_t kNaiveAllocator = 1;
constexpr int64_t kPooledAllocator = 2;

const TensorSpec& spec_of(const TensorFile& file, const std::string& name) {
  return file.header().entries.at(name).spec;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

template <typename Number>
bool any_nan(const Data& data) {
  const auto* begin = static_cast<const Number*>(data.begin);
  return std::any_of(begin, begin + data.bytes / sizeof(Number), [](Number value) { return std::isnan(value); });
}

bool is_half_nan(uint16_t bits) { return (bits & 0x7c00) == 0x7c00 && (bits & 0x03ff) != 0; }

}  // namespace

StageLibrary::StageLibrary(std::shared_ptr<const TvmRuntime> runtime, const Bundle& bundle, size_t stage, size_t build)
    : runtime_(std::move(runtime)),
      stage_(bundle.manifest.stages[stage]),
      build_(stage_.builds[build]),
      stored_(bundle.weights[stage]) {
  try {
    module_ = runtime_->load_library(bundle.file(build_.library));
    if (build_.shares_by_speed) runtime_->call(runtime_->function(module_, "share_by_speed", true), {});
  } catch (const Error& error) {
    throw Error("The library " + build_.library + " cannot be loaded: " + error.what() + ".");
  }
}

TvmObject StageLibrary::machine(int64_t allocator) const {
  try {
    TvmObject result = runtime_->call_for_object(runtime_->function(module_, "vm_load_executable"), {});
    const std::vector<int64_t> devices = {kCpu, 0, allocator, kCpu, 0, allocator};
    std::vector<TVMFFIAny> arguments;
    for (const int64_t value : devices) arguments.push_back(tvm_integer(value));
    runtime_->call(runtime_->function(result, "vm_initialization"), arguments);
    return result;
  } catch (const Error& error) {
    throw Error("The library " + build_.library + " cannot be loaded: " + error.what() + ".");
  }
}

TvmObject StageLibrary::main_function() const {
  const TvmObject loaded = machine(kPooledAllocator);
  const TvmObject arity = runtime_->function(loaded, "get_function_arity");
  const int64_t takes = runtime_->call(arity, {tvm_string("main")}).v_int64;
  const auto described = static_cast<int64_t>(stage_.inputs.size() + build_.weight_arguments.size());
  if (takes != described)
    throw Error("The library " + build_.library + " takes " + std::to_string(takes) +
                " tensors, its manifest describes " + std::to_string(described) + ".");
  return runtime_->function(loaded, "main");
}

Weights StageLibrary::prepare(const Overrides& overrides) const { return prepare_changed(nullptr, {}, overrides); }

Weights StageLibrary::prepare_changed(const Weights& current, const Overrides& made_with,
                                      const Overrides& overrides) const {
  // What the naive allocator takes for steps in between goes back to the system; a pool would keep it.
  const TvmObject preparing = machine(kNaiveAllocator);
  auto result = std::make_shared<std::vector<TvmObject>>();
  for (size_t i = 0; i < build_.weight_arguments.size(); ++i) {
    const WeightArgument& argument = build_.weight_arguments[i];
    const bool is_new = current == nullptr || std::any_of(argument.weights.begin(), argument.weights.end(),
                                                         [&](const std::string& weight) {
                                                           return has_changed(weight, made_with, overrides);
                                                         });
    result->push_back(is_new ? prepared(preparing, argument, overrides) : (*current)[i]);
  }
  return result;
}

TvmObject StageLibrary::prepared(const TvmObject& machine, const WeightArgument& argument,
                                 const Overrides& overrides) const {
  std::vector<TvmObject> tensors;
  for (const std::string& weight : argument.weights)
    tensors.push_back(runtime_->tensor(spec_of(*stored_, weight), value(weight, overrides)));
  if (argument.function.empty()) return tensors.front();
  const std::string what = build_.library + " could not prepare " + joined(argument.weights) + " of " + stage_.name;
  TvmObject result;
  try {
    std::vector<TVMFFIAny> arguments;
    for (const TvmObject& tensor : tensors) arguments.push_back(tensor.argument());
    const TvmObject function = runtime_->function(machine, argument.function.c_str());
    const std::vector<TvmObject> results = runtime_->elements(runtime_->call_for_object(function, arguments));
    if (!results.empty()) result = results.front();
  } catch (const Error& error) {
    throw Error(what + ": " + error.what() + ".");
  }
  // main does not look at the shapes of its weights: another one would be read beyond its end.
  if (!has_form(result, argument.tensor))
    throw Error(what + ": it made something else than " + argument.tensor.text() + ", which main takes.");
  for (const std::string& weight : argument.weights) stored_->release(weight);
  return result;
}

Data StageLibrary::value(const std::string& weight, const Overrides& overrides) const {
  const auto found = overrides.find(weight);
  return found == overrides.end() ? stored_->tensor(weight) : found->second;
}

bool StageLibrary::has_changed(const std::string& weight, const Overrides& before, const Overrides& after) const {
  if (before.count(weight) == 0 && after.count(weight) == 0) return false;
  const Data ours = value(weight, before), theirs = value(weight, after);
  return ours.bytes != theirs.bytes || std::memcmp(ours.begin, theirs.begin, ours.bytes) != 0;
}

StageExecutable::StageExecutable(std::shared_ptr<const StageLibrary> library)
    : library_(std::move(library)), main_(library_->main_function()) {}

std::vector<TvmObject> StageExecutable::call(const std::vector<TvmObject>& inputs, const Weights& weights) {
  arguments_.resize(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) arguments_[i] = inputs[i].argument();
  for (const TvmObject& weight : *weights) arguments_.push_back(weight.argument());
  const TvmRuntime& runtime = library_->runtime();
  std::vector<TvmObject> results = runtime.elements(runtime.call_for_object(main_, arguments_));
  const std::vector<TensorSpec>& outputs = library_->stage().outputs;
  const bool fits = std::equal(results.begin(), results.end(), outputs.begin(), outputs.end(), has_form);
  if (!fits) throw Error("it returned other tensors than its manifest describes");
  return results;
}

void StageExecutable::warm_up(const Weights& weights) {
  std::vector<TvmObject> zeros;
  for (const TensorSpec& spec : library_->stage().inputs) {
    const Buffer buffer(spec.bytes());
    std::memset(buffer.begin(), 0, buffer.bytes());
    zeros.push_back(library_->runtime().tensor(spec, buffer.data()));
  }
  call(zeros, weights);
}

bool holds_nan(const TensorSpec& spec, const Data& data) {
  switch (spec.type) {
    case ElementType::kFloat64:
      return any_nan<double>(data);
    case ElementType::kFloat32:
      return any_nan<float>(data);
    case ElementType::kFloat16: {
      const auto* begin = static_cast<const uint16_t*>(data.begin);
      return std::any_of(begin, begin + data.bytes / sizeof(uint16_t), is_half_nan);
    }
    default:
      return false;
  }
}

}  // namespace cospipe

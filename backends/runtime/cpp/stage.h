// A compiled stage: its library, its weights, and calls of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "adapter.h"
#include "bundle.h"
#include "manifest.h"
#include "tvm_runtime.h"

namespace cospipe {

// What `main` takes behind its inputs, in its order.
using Weights = std::shared_ptr<const std::vector<TvmObject>>;

// One build of a stage, loaded once however many replicas run it.
class StageLibrary {
 public:
  // Throws Error when the library cannot be loaded.
  StageLibrary(std::shared_ptr<const TvmRuntime> runtime, const Bundle& bundle, size_t stage, size_t build);

  const Stage& stage() const { return stage_; }
  const TvmRuntime& runtime() const { return *runtime_; }

  // Prepares all weights, one after the other, so that few are in memory twice. Call it in a thread with a pool.
  Weights prepare(const Overrides& overrides) const;
  // The same with other overrides than `current` was prepared with; what is made of unchanged values is shared.
  Weights prepare_changed(const Weights& current, const Overrides& made_with, const Overrides& overrides) const;
  // A `main` for the calling thread alone. Throws Error when it takes other tensors than the manifest says.
  TvmObject main_function() const;

 private:
  TvmObject machine(int64_t allocator) const;
  TvmObject prepared(const TvmObject& machine, const WeightArgument& argument, const Overrides& overrides) const;
  Data value(const std::string& weight, const Overrides& overrides) const;
  bool has_changed(const std::string& weight, const Overrides& before, const Overrides& after) const;

  std::shared_ptr<const TvmRuntime> runtime_;
  Stage stage_;
  StageBuild build_;
  std::shared_ptr<const TensorFile> stored_;
  TvmObject module_;
};

// A stage as one thread calls it.
class StageExecutable {
 public:
  explicit StageExecutable(std::shared_ptr<const StageLibrary> library);

  // Runs the stage; inputs and results are in the manifest's order. Throws Error when it fails, or returns tensors of
  // other shapes than the manifest says.
  std::vector<TvmObject> call(const std::vector<TvmObject>& inputs, const Weights& weights);
  // Runs it once on zeros, so that pages, buffers and threads exist before the first frame.
  void warm_up(const Weights& weights);

 private:
  std::shared_ptr<const StageLibrary> library_;
  TvmObject main_;
  std::vector<TVMFFIAny> arguments_;
};

// Tells whether there is a NaN among floating-point numbers.
bool holds_nan(const TensorSpec& spec, const Data& data);

}  // namespace cospipe

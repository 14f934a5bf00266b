// Compares what a bundle computes with what eager PyTorch computed for one frame, without PyTorch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "bundle.h"
#include "pipeline.h"
#include "tvm_runtime.h"

namespace cospipe {

// One tensor, compared; the error is relative to the largest expected magnitude.
struct Check {
  std::string part, tensor;
  double relative_error = 0;
  double tolerance = 0;

  bool passed() const { return relative_error <= tolerance; }
};

// Every build of every stage, given the reference's inputs, and the whole pipeline with every replica. `reference` is a
// safetensors file with every tensor handed over; empty for the bundle's own. Throws Error when something cannot run.
std::vector<Check> verify(std::shared_ptr<const Bundle> bundle, std::shared_ptr<const TvmRuntime> runtime,
                          const PipelineOptions& options, const std::string& reference);

// The largest difference divided by the largest expected magnitude; infinite for NaN. Where both are infinite with the
// same sign they agree; a tensor of zeros is compared absolutely.
double relative_error(const TensorSpec& spec, const Data& actual, const Data& expected);

nlohmann::ordered_json summary(const std::vector<Check>& checks);
// The checks as lines for people.
std::string table(const std::vector<Check>& checks);

}  // namespace cospipe

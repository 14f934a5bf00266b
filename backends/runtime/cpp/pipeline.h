// The pipeline: a thread a replica of a stage, pinned to the plan's cores, with short queues in between.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "errors.h"
#include "frames.h"
#include "placement.h"
#include "statistics.h"
#include "tvm_runtime.h"

namespace cospipe {

struct PipelineOptions {
  size_t queue_depth = 1;       // frames that may wait in front of each stage
  std::string adapter;          // file of an adapter to fold in when the weights are loaded; empty for none
  bool strict = false;          // refuse where cores of the plan are missing, end when they get lost
  bool fail_on_nan = false;     // a NaN that a stage puts out is an error
  double stall_timeout_s = 60;  // how long a stage may take for one frame; 0 for as long as it likes
  std::function<void(const std::string&)> warn = [](const std::string&) {};  // is told of lost cores at once
};

// A stage that is at a frame for too long. Its thread cannot be ended: the process must end without waiting for it.
class StallError : public Error {
 public:
  using Error::Error;
};

class PipelineState;

// Runs frames through the stages of a bundle, all stages and replicas at once on different frames.
class Pipeline {
 public:
  // Starts the threads; returns when every stage is loaded and warm. Throws Error when one cannot be.
  Pipeline(std::shared_ptr<const Bundle> bundle, std::shared_ptr<const TvmRuntime> runtime,
           const PipelineOptions& options);
  // Stops the stages after the frames they are at, and waits until they are done, unless one is stuck.
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Runs frames until the source has no more, once; results go to the sink in the order of the frames. `swaps` are
  // adapters (files, or "none") by the number of the first frame that meets them. `stop` ends waits of the source when
  // something fails. Throws what the source or the sink throws, and Error when a stage fails, after the results of the
  // frames that had left the last stage.
  void run(FrameSource& source, ResultSink& sink, const std::map<uint64_t, std::string>& swaps, Stop& stop);

  // Gives every frame that is accepted from now on another adapter in all stages, from any thread, while frames run.
  // "none" is what the bundle was compiled with. Throws Error when it does not fit; then all goes on as it was.
  void swap_adapter(const std::string& adapter);

  // How many results the sink was given so far; may be asked from any thread.
  uint64_t frames_handed_out() const;
  const std::vector<std::vector<Placement>>& placements() const;
  // Of the run, when it is over: times, what the machine did meanwhile, warnings.
  RunStatistics statistics() const;

 private:
  std::shared_ptr<PipelineState> state_;
};

}  // namespace cospipe

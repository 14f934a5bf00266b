// One replica of a stage: its thread, where it runs, and the build that it loads.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bundle.h"
#include "placement.h"
#include "stage.h"
#include "statistics.h"
#include "tvm_runtime.h"
#include "watchdog.h"

namespace cospipe {

// One build of a stage, loaded by the first replica that needs it.
struct SharedBuild {
  size_t stage = 0, build = 0;
  std::mutex mutex;
  std::shared_ptr<const StageLibrary> library;
  Weights weights;
};

// One replica of a stage.
struct Worker {
  std::string name;  // "stage1 (big:4)"
  size_t stage = 0, replica = 0;
  SharedBuild* build = nullptr;
  size_t build_index = 0;
  Placement placement;
  ReplicaTimes times;
  Activity activity;
  std::thread thread;
};

std::string worker_name(const Stage& stage, size_t replica);
bool owns_its_cores(const Placement& placement);

// Puts the calling thread, which must be the worker's own, on its cores, makes its pool, loads the build if nobody has,
// with `overrides` in place of stored weights, and runs it once. Throws Error when something of this is impossible.
std::unique_ptr<StageExecutable> load(Worker& worker, const std::shared_ptr<const TvmRuntime>& runtime,
                                      const Bundle& bundle, const Overrides& overrides);

}  // namespace cospipe

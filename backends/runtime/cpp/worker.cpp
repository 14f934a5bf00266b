#include "worker.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>
#include <vector>

#include "errors.h"

namespace cospipe {
namespace {

void stay_on(const std::vector<int>& cpu_ids) {
  cpu_set_t* set = CPU_ALLOC(CPU_SETSIZE);
  if (set == nullptr) throw std::bad_alloc();
  const size_t bytes = CPU_ALLOC_SIZE(CPU_SETSIZE);
  CPU_ZERO_S(bytes, set);
  for (const int cpu : cpu_ids) CPU_SET_S(static_cast<size_t>(cpu), bytes, set);
  const bool done = sched_setaffinity(0, bytes, set) == 0;
  CPU_FREE(set);
  if (!done) throw Error("its thread cannot be put on cpu " + std::to_string(cpu_ids.front()));
}

}  // namespace

bool owns_its_cores(const Placement& placement) { return placement.kind != Placement::Kind::kShared; }

std::string worker_name(const Stage& stage, size_t replica) {
  const std::string which = stage.replicas.size() > 1 ? " replica " + std::to_string(replica) : "";
  return stage.name + which + " (" + stage.replicas[replica].configuration + ")";
}

std::unique_ptr<StageExecutable> load(Worker& worker, const std::shared_ptr<const TvmRuntime>& runtime,
                                      const Bundle& bundle, const Overrides& overrides) {
  worker.activity.set_thread(static_cast<pid_t>(syscall(SYS_gettid)));
  stay_on(worker.placement.cpu_ids);
  runtime->configure_thread_pool(worker.placement.cpu_ids, worker.placement.threads);
  SharedBuild& build = *worker.build;
  {
    const std::lock_guard<std::mutex> lock(build.mutex);
    if (build.library == nullptr) {
      build.library = std::make_shared<StageLibrary>(runtime, bundle, build.stage, build.build);
      build.weights = build.library->prepare(overrides);
    }
  }
  auto executable = std::make_unique<StageExecutable>(build.library);
  {
    const AtWork at_work(worker.activity, 0);
    executable->warm_up(build.weights);
  }
  if (owns_its_cores(worker.placement))
    stay_on({worker.placement.cpu_ids.front()});  // the pool has just widened it to all its cores
  return executable;
}

}  // namespace cospipe

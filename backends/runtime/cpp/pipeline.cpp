#include "pipeline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <thread>

#include "adapter.h"
#include "freed_memory.h"
#include "link.h"
#include "watchdog.h"
#include "weight_thread.h"
#include "wiring.h"
#include "worker.h"

namespace cospipe {
namespace {

constexpr std::chrono::microseconds kSpin{200};
constexpr size_t kAnyNumber = std::numeric_limits<size_t>::max();

// The weights of every build that a frame meets: those that were current when it was accepted, in every stage.
using Generation = std::vector<Weights>;

// One frame on its way through the stages.
struct Job {
  uint64_t number = 0;
  std::shared_ptr<const Generation> generation;
  std::vector<TvmObject> values;  // by the index of their names; those nobody needs any more are let go
  double accepted_us = 0, started_us = 0, finished_us = 0;
};

// What comes out behind the last stage: a frame, or how many there were.
struct Arrival {
  std::unique_ptr<Job> job;
  std::optional<uint64_t> end;
};

}  // namespace

// Everything the threads share; it lives as long as one of them does.
class PipelineState : public std::enable_shared_from_this<PipelineState> {
 public:
  PipelineState(std::shared_ptr<const Bundle> bundle, std::shared_ptr<const TvmRuntime> runtime,
                PipelineOptions options)
      : bundle_(std::move(bundle)),
        runtime_(std::move(runtime)),
        options_(std::move(options)),
        wiring_(wire(manifest())),
        inside_(frames_inside(manifest(), options_.queue_depth)) {
    const std::vector<int> cpus = available_cpus();
    placements_ = place(manifest(), cpus);
    warnings_ = placement_warnings(manifest(), placements_, cpus);
    if (options_.strict && !warnings_.empty()) throw Error(several("With --strict this does not run here", warnings_));
    made_with_ = overrides(options_.adapter);
    make_workers();
  }

  void start();
  void stop();
  void run(FrameSource& source, ResultSink& sink, const std::map<uint64_t, std::string>& swaps, Stop& stop);
  void swap_adapter(const std::string& adapter);
  RunStatistics statistics() const;
  uint64_t frames_handed_out() const { return handed_out_.load(); }
  const std::vector<std::vector<Placement>>& placements() const { return placements_; }

 private:
  const Manifest& manifest() const { return bundle_->manifest; }
  std::vector<Overrides> overrides(const std::string& adapter);
  void make_workers();
  void watch();
  void work(Worker& worker);
  void count(size_t& what);
  void step(Worker& worker, StageExecutable& executable, Job& job);
  void pass_on(size_t stage, std::unique_ptr<Job> job);
  void arrive(std::unique_ptr<Job> job);
  void feed(FrameSource& source, const std::map<uint64_t, std::string>& swaps);
  bool accept(uint64_t number, const Frame& frame);
  void hand_out_all(ResultSink& sink);
  void hand_out(ResultSink& sink, const Job& job);
  std::shared_ptr<const Generation> current_generation() const;
  void fail(const std::exception_ptr& failure);
  void close_all();
  void raise_failure() const;

  const std::shared_ptr<const Bundle> bundle_;
  const std::shared_ptr<const TvmRuntime> runtime_;
  const PipelineOptions options_;
  std::vector<std::vector<Placement>> placements_;
  std::vector<std::string> warnings_;
  std::vector<Overrides> made_with_;  // what the newest generation was, by stage; of who swaps
  BaseFingerprints fingerprints_;     // of who swaps, or of the constructor

  const Wiring wiring_;

  std::vector<std::unique_ptr<SharedBuild>> builds_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Link<std::unique_ptr<Job>>>> links_;  // in front of each stage
  Link<char> inside_;                                               // an item for each frame that is inside
  Link<Arrival> arrived_{kAnyNumber};
  std::unique_ptr<Watchdog> watchdog_;
  std::atomic<uint64_t> accepted_{0}, arrived_frames_{0}, handed_out_{0};

  std::mutex swapping_;
  std::unique_ptr<WeightThread> weight_thread_;  // of who swaps
  mutable std::mutex mutex_;  // of everything below
  std::condition_variable some_are_done_;
  size_t started_ = 0, ready_ = 0, ended_ = 0;  // threads
  bool is_stuck_ = false;
  std::exception_ptr failure_, source_failure_;
  std::shared_ptr<const Generation> generation_;

  RunStatistics results_;  // of the thread that runs
};

std::vector<Overrides> PipelineState::overrides(const std::string& adapter) {
  if (!names_adapter(adapter)) return std::vector<Overrides>(manifest().stages.size());
  return adapter_overrides(manifest(), bundle_->weights, adapter, &fingerprints_);
}

void PipelineState::make_workers() {
  for (size_t i = 0; i < manifest().stages.size(); ++i) {
    const Stage& stage = manifest().stages[i];
    links_.push_back(std::make_unique<Link<std::unique_ptr<Job>>>(options_.queue_depth));
    const size_t first_build = builds_.size();
    for (size_t build = 0; build < stage.builds.size(); ++build) {
      builds_.push_back(std::make_unique<SharedBuild>());
      builds_.back()->stage = i;
      builds_.back()->build = build;
    }
    for (size_t replica = 0; replica < stage.replicas.size(); ++replica) {
      auto worker = std::make_unique<Worker>();
      worker->name = worker_name(stage, replica);
      worker->stage = i;
      worker->replica = replica;
      worker->build_index = first_build + stage.replicas[replica].build;
      worker->build = builds_[worker->build_index].get();
      worker->placement = placements_[i][replica];
      workers_.push_back(std::move(worker));
    }
  }
}

void PipelineState::watch() {
  std::vector<Watched> watched;
  for (const auto& worker : workers_)
    watched.push_back({worker->name, &worker->activity, worker->placement.cpu_ids, owns_its_cores(worker->placement)});
  const auto frames = [this] {
    const uint64_t arrived = arrived_frames_.load();  // first: the other one never falls behind it
    return accepted_.load() - arrived;
  };
  const auto report = [this](const std::string& reason, bool is_stuck) {
    if (!is_stuck) return fail(std::make_exception_ptr(Error(reason)));
    fail(std::make_exception_ptr(StallError(reason)));
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_stuck_ = true;
    }
    some_are_done_.notify_all();
  };
  watchdog_ = std::make_unique<Watchdog>(watched, frames, options_.stall_timeout_s, options_.strict, report,
                                         options_.warn);
}

void PipelineState::start() {
  watch();
  for (const auto& worker : workers_) {
    worker->thread = std::thread([state = shared_from_this(), worker = worker.get()] {
      state->work(*worker);
      state->count(state->ended_);
    });
    started_ += 1;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  some_are_done_.wait(lock, [this] { return ready_ == workers_.size() || is_stuck_; });
  lock.unlock();
  raise_failure();
  auto first = std::make_shared<Generation>();
  // From here on only generations own weights: those that no frame meets any more go.
  for (const auto& build : builds_) first->push_back(std::move(build->weights));
  generation_ = first;
  give_back_freed_memory();
}

void PipelineState::count(size_t& what) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    what += 1;
  }
  some_are_done_.notify_all();
}

void PipelineState::stop() {
  close_all();
  {
    std::unique_lock<std::mutex> lock(mutex_);  // the watchdog goes on: one that is at a frame may be stuck there
    some_are_done_.wait(lock, [this] { return ended_ == started_ || is_stuck_; });
  }
  watchdog_.reset();
  // Their work is done, or stuck. A thread that has used TVM ends only when the other threads of its pool have stopped
  // looking for work, which takes them minutes on a busy machine: that is not waited for.
  for (const auto& worker : workers_)
    if (worker->thread.joinable()) worker->thread.detach();
}

// Body of a replica's thread.
void PipelineState::work(Worker& worker) {
  std::unique_ptr<StageExecutable> executable;
  try {
    executable = load(worker, runtime_, *bundle_, made_with_[worker.stage]);
  } catch (const std::bad_alloc&) {
    fail(std::make_exception_ptr(Error(worker.name + " could not be started: there is no memory left.")));
  } catch (const std::exception& error) {
    fail(std::make_exception_ptr(Error(worker.name + " could not be started: " + error.what())));
  }
  count(ready_);
  const auto spin = owns_its_cores(worker.placement) ? kSpin : std::chrono::microseconds(0);
  while (executable != nullptr) {
    std::optional<std::unique_ptr<Job>> job = links_[worker.stage]->take(spin);
    if (!job) return;
    try {
      step(worker, *executable, **job);
      pass_on(worker.stage, std::move(*job));
    } catch (...) {
      fail(std::current_exception());
      return;
    }
  }
}

void PipelineState::step(Worker& worker, StageExecutable& executable, Job& job) {
  const StageWiring& wiring = wiring_.stages[worker.stage];
  const Stage& stage = manifest().stages[worker.stage];
  std::vector<TvmObject> inputs;
  for (const size_t value : wiring.inputs) inputs.push_back(job.values[value]);
  const double started_us = now_us();
  std::vector<TvmObject> outputs;
  const std::string which = " at frame " + std::to_string(job.number);
  try {
    const AtWork at_work(worker.activity, job.number);
    outputs = executable.call(inputs, (*job.generation)[worker.build_index]);
  } catch (const std::bad_alloc&) {
    throw Error(worker.name + " failed" + which + ": there is no memory left.");
  } catch (const Error& error) {
    throw Error(worker.name + " failed" + which + ": " + error.what() + ".");
  }
  job.finished_us = now_us();
  if (job.started_us == 0) job.started_us = started_us;
  worker.times.add(started_us, job.finished_us);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (options_.fail_on_nan && holds_nan(stage.outputs[i], data_of(outputs[i])))
      throw Error(worker.name + " put out NaN in " + stage.outputs[i].text() + which + ".");
    job.values[wiring.outputs[i]] = std::move(outputs[i]);
  }
  for (const size_t value : wiring.done_with) job.values[value] = {};
}

void PipelineState::pass_on(size_t stage, std::unique_ptr<Job> job) {
  if (stage + 1 < links_.size())
    links_[stage + 1]->put(std::move(job));
  else
    arrive(std::move(job));
}

void PipelineState::arrive(std::unique_ptr<Job> job) {
  arrived_frames_ += 1;
  arrived_.put({std::move(job), std::nullopt});
}

void PipelineState::run(FrameSource& source, ResultSink& sink, const std::map<uint64_t, std::string>& swaps,
                        Stop& stop) {
  results_ = {};
  for (const auto& [frame, adapter] : swaps) overrides(adapter);  // what does not fit shall be said before any frame
  std::thread feeder([this, &source, &swaps] { feed(source, swaps); });
  std::exception_ptr sink_failure;
  try {
    hand_out_all(sink);
  } catch (...) {
    sink_failure = std::current_exception();
  }
  stop.request();
  inside_.close();
  if (sink_failure) close_all();
  feeder.join();
  raise_failure();
  if (sink_failure) std::rethrow_exception(sink_failure);
  if (source_failure_) std::rethrow_exception(source_failure_);
  watchdog_->end();
}

// Body of the thread that brings the frames.
void PipelineState::feed(FrameSource& source, const std::map<uint64_t, std::string>& swaps) {
  uint64_t number = 0;
  try {
    while (inside_.put(0)) {
      if (const auto swap = swaps.find(number); swap != swaps.end()) swap_adapter(swap->second);
      const std::optional<Frame> frame = source.next();
      if (!frame) break;
      if (!accept(number, *frame)) return;
      number += 1;
    }
  } catch (...) {  // whatever the source throws, whoever runs the pipeline shall see, behind the results before it
    source_failure_ = std::current_exception();
  }
  try {
    arrived_.put({nullptr, number});
  } catch (...) {
    fail(std::current_exception());
  }
}

bool PipelineState::accept(uint64_t number, const Frame& frame) {
  auto job = std::make_unique<Job>();
  job->number = number;
  job->values.resize(wiring_.value_count);
  for (size_t i = 0; i < frame.size(); ++i)
    job->values[i] = runtime_->tensor(manifest().inputs[i], aligned(frame[i]));
  if (!links_.front()->wait_for_room()) return false;
  job->generation = current_generation();
  job->accepted_us = now_us();  // waiting for the pipeline to accept a frame is not part of its latency
  accepted_ += 1;
  return links_.front()->put(std::move(job));
}

void PipelineState::hand_out_all(ResultSink& sink) {
  std::map<uint64_t, std::unique_ptr<Job>> early;
  std::optional<uint64_t> end;
  uint64_t next = 0;
  while (next != end) {
    std::optional<Arrival> arrival = arrived_.take();
    if (!arrival) return;
    if (arrival->end) {
      end = arrival->end;
      continue;
    }
    const uint64_t number = arrival->job->number;
    early.emplace(number, std::move(arrival->job));
    while (!early.empty() && early.begin()->first == next) {
      const std::unique_ptr<Job> job = std::move(early.begin()->second);
      early.erase(early.begin());
      next += 1;
      hand_out(sink, *job);
    }
  }
}

void PipelineState::hand_out(ResultSink& sink, const Job& job) {
  // A frame is finished when those before it are, too.
  const double finished_us = std::max(job.finished_us, results_.last_result_us);
  results_.record(std::min(job.accepted_us, job.started_us), finished_us);
  Frame result;
  for (const size_t value : wiring_.results) result.push_back(data_of(job.values[value]));
  sink.add(job.number, result);
  handed_out_ += 1;
  inside_.take();
}

void PipelineState::swap_adapter(const std::string& adapter) {
  const std::lock_guard<std::mutex> swapping(swapping_);
  if (weight_thread_ == nullptr) {
    weight_thread_ = std::make_unique<WeightThread>();
    weight_thread_->run([this] { runtime_->configure_thread_pool(available_cpus(), 1); });
  }
  weight_thread_->run([&] {
    const auto current = current_generation();
    auto made = std::make_shared<Generation>();
    std::vector<Overrides> wanted = overrides(adapter);
    for (size_t i = 0; i < builds_.size(); ++i) {
      const size_t stage = builds_[i]->stage;
      made->push_back(builds_[i]->library->prepare_changed((*current)[i], made_with_[stage], wanted[stage]));
    }
    made_with_ = std::move(wanted);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      generation_ = std::move(made);
    }
    give_back_freed_memory();
  });
}

std::shared_ptr<const Generation> PipelineState::current_generation() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return generation_;
}

RunStatistics PipelineState::statistics() const {
  RunStatistics result = results_;
  for (const auto& stage : placements_) result.stages.emplace_back(stage.size());
  for (const auto& worker : workers_) result.stages[worker->stage][worker->replica] = worker->times;
  for (const auto& link : links_) result.waiting.push_back(link->waiting());
  result.warnings = warnings_;
  if (watchdog_ == nullptr) return result;
  result.clocks = watchdog_->clocks();
  for (const std::string& warning : watchdog_->warnings()) result.warnings.push_back(warning);
  return result;
}

// Stops everything because something cannot go on; the first failure counts.
void PipelineState::fail(const std::exception_ptr& failure) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_ == nullptr) failure_ = failure;
  }
  close_all();
}

// What has come out behind the last stage can still be handed out.
void PipelineState::close_all() {
  for (const auto& link : links_) link->close();
  inside_.close();
  arrived_.end();
}

void PipelineState::raise_failure() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

Pipeline::Pipeline(std::shared_ptr<const Bundle> bundle, std::shared_ptr<const TvmRuntime> runtime,
                   const PipelineOptions& options)
    : state_(std::make_shared<PipelineState>(std::move(bundle), std::move(runtime), options)) {
  try {
    state_->start();
  } catch (...) {
    state_->stop();
    throw;
  }
}

Pipeline::~Pipeline() { state_->stop(); }

void Pipeline::run(FrameSource& source, ResultSink& sink, const std::map<uint64_t, std::string>& swaps, Stop& stop) {
  state_->run(source, sink, swaps, stop);
}

void Pipeline::swap_adapter(const std::string& adapter) { state_->swap_adapter(adapter); }

uint64_t Pipeline::frames_handed_out() const { return state_->frames_handed_out(); }

const std::vector<std::vector<Placement>>& Pipeline::placements() const { return state_->placements(); }

RunStatistics Pipeline::statistics() const { return state_->statistics(); }

}  // namespace cospipe

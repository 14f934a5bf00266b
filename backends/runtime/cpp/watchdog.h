// Looks after the stages while they run: whether one is stuck, and what happens to their cores.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "machine_monitor.h"

namespace cospipe {

// What a stage's thread is at, for others to see.
class Activity {
 public:
  void set_thread(pid_t thread) { thread_.store(thread); }
  pid_t thread() const { return thread_.load(); }

  void begin(uint64_t frame) {
    frame_.store(frame);
    calls_.fetch_add(1);  // odd while it is at one
  }
  void end() { calls_.fetch_add(1); }

  uint64_t frame() const { return frame_.load(); }
  uint64_t calls() const { return calls_.load(); }

 private:
  std::atomic<pid_t> thread_{0};
  std::atomic<uint64_t> frame_{0}, calls_{0};
};

// Shows that a thread is at a frame, as long as it lives.
class AtWork {
 public:
  AtWork(Activity& activity, uint64_t frame) : activity_(activity) { activity_.begin(frame); }
  ~AtWork() { activity_.end(); }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;

 private:
  Activity& activity_;
};

// A stage's thread, and the cores of its pool. Where it owns them it stays on the first itself.
struct Watched {
  std::string name;
  const Activity* activity = nullptr;
  std::vector<int> cpu_ids;
  bool owns_its_cores = true;
};

class Watchdog {
 public:
  // Is told what is wrong, and whether a thread is stuck.
  using Report = std::function<void(const std::string& reason, bool is_stuck)>;

  // How many frames have been accepted and have not come out behind the last stage.
  using FramesInStages = std::function<uint64_t()>;

  // Is told of every core that gets lost, once.
  using Warn = std::function<void(const std::string& warning)>;

  // Begins to watch. `stall_timeout_s` 0 lets a stage take as long as it likes; `strict` reports lost cores, too.
  Watchdog(std::vector<Watched> watched, FramesInStages frames, double stall_timeout_s, bool strict, Report report,
           Warn warn);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Ends watching; afterwards the figures can be read.
  void end();
  std::map<int, ClockRange> clocks() const { return monitor_.clocks(); }
  std::vector<std::string> warnings() const { return monitor_.warnings(); }

 private:
  void watch();
  void watch_until_the_end();
  void look_for_stalls(double passed_s);
  void look_for_frames_nobody_takes(bool nobody_works, double passed_s);
  void stall(const std::string& what, bool is_stuck);
  void look_at_machine();

  struct Progress {
    uint64_t calls = 0;
    double at_it_for_s = 0;
  };

  const std::vector<Watched> watched_;
  const FramesInStages frames_;
  const double stall_timeout_s_;
  const bool strict_;
  const Report report_;
  const Warn warn_;
  MachineMonitor monitor_;
  std::vector<Progress> progress_;
  double nobody_works_for_s_ = 0;
  size_t warned_ = 0;
  bool has_reported_ = false, has_reported_stuck_ = false;
  std::mutex mutex_;
  std::condition_variable has_ended_;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace cospipe

// What happens to cores while a pipeline runs: their clocks, and whether they are taken away.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace cospipe {

struct ClockRange {
  double lowest_mhz = 0, median_mhz = 0, highest_mhz = 0;
  double nominal_mhz = 0;  // the highest the core can have; 0 when nobody says
};

// A thread that should stay on some cores; without any it may be everywhere.
struct PinnedThread {
  std::string name;  // "stage1 (big:4)"
  pid_t thread = 0;
  std::vector<int> cpu_ids;
};

// Used by one thread. Memory does not grow with the number of samples.
class MachineMonitor {
 public:
  MachineMonitor(std::vector<int> cpu_ids, const std::string& sys = "/sys");

  // Reads the clocks of all cores and the affinity of all threads, once.
  void sample(const std::vector<PinnedThread>& threads);

  // By core; cores whose clock nobody tells (most virtual machines) are missing.
  std::map<int, ClockRange> clocks() const;
  // Sentences: a core that ran below 90 % of its nominal clock in more than half of the samples (throttling), a core
  // that went offline, a thread that was moved away from its cores.
  std::vector<std::string> warnings() const;
  // Sentences about cores that were lost since the start (offline, moved away): with --strict these end the run.
  std::vector<std::string> lost_cores() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cospipe

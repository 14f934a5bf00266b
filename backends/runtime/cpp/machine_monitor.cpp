#include "machine_monitor.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>

#include "sysfs.h"

namespace cospipe {

namespace {

constexpr double kThrottledBelow = 0.9;
constexpr uint64_t kFewestSamples = 3;

// How often a core was seen at each clock.
class ClockCounts {
 public:
  void add(int64_t clock_mhz) {
    counts_[clock_mhz] += 1;
    total_ += 1;
  }

  bool empty() const { return total_ == 0; }
  uint64_t total() const { return total_; }
  int64_t lowest_mhz() const { return counts_.begin()->first; }
  int64_t highest_mhz() const { return counts_.rbegin()->first; }

  int64_t median_mhz() const {
    uint64_t seen = 0;
    for (const auto& [clock_mhz, count] : counts_) {
      seen += count;
      if (2 * seen >= total_) return clock_mhz;
    }
    return 0;
  }

  uint64_t below(double limit_mhz) const {
    uint64_t seen = 0;
    for (const auto& [clock_mhz, count] : counts_) seen += static_cast<double>(clock_mhz) < limit_mhz ? count : 0;
    return seen;
  }

 private:
  std::map<int64_t, uint64_t> counts_;  // whole MHz: a core has some thousands at most
  uint64_t total_ = 0;
};

struct Core {
  double nominal_mhz = 0;
  ClockCounts clocks;
};

std::string frequency_file(const std::string& sys, int cpu, const std::string& name) {
  return sys + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/" + name;
}

std::string throttling(int cpu, const Core& core) {
  const uint64_t total = core.clocks.total();
  if (core.nominal_mhz <= 0 || total < kFewestSamples) return "";
  const uint64_t slow = core.clocks.below(kThrottledBelow * core.nominal_mhz);
  if (2 * slow <= total) return "";
  return "cpu " + std::to_string(cpu) + " ran below 90% of its " + std::to_string(std::lrint(core.nominal_mhz)) +
         " MHz in " + std::to_string(slow) + " of " + std::to_string(total) + " samples, at " +
         std::to_string(core.clocks.median_mhz()) +
         " MHz in the median: it was throttled (heat, power), or its governor holds it back.";
}

}  // namespace

struct MachineMonitor::State {
  std::string sys;
  std::map<int, Core> cores;
  std::set<int> allowed_first;
  std::set<std::string> lost;               // what was lost, each only once
  std::vector<std::string> lost_sentences;  // in the order in which it was noticed

  void lose(const std::string& what, const std::string& sentence) {
    if (lost.insert(what).second) lost_sentences.push_back(sentence);
  }

  void sample_clocks() {
    for (auto& [cpu, core] : cores) {
      const auto clock_khz = read_positive_number(frequency_file(sys, cpu, "scaling_cur_freq"));
      if (clock_khz) core.clocks.add(std::llrint(*clock_khz / 1e3));
    }
  }

  void look_for_lost_cores() {
    const std::optional<std::set<int>> online = online_cpus(sys);
    const std::set<int> allowed = allowed_cpus(0).value_or(allowed_first);
    for (const auto& [cpu, core] : cores) {
      const std::string name = "cpu " + std::to_string(cpu);
      if (online && online->count(cpu) == 0) {
        lose(name, name + " went offline while the pipeline ran.");
      } else if (allowed_first.count(cpu) == 1 && allowed.count(cpu) == 0) {
        // what this thread may use no more, the stages may not use either: their cpuset was changed
        lose(name, "This process may use " + name + " no more.");
      }
    }
  }

  void look_for_moved(const PinnedThread& thread) {
    if (thread.cpu_ids.empty()) return;
    const std::optional<std::set<int>> cpus = allowed_cpus(thread.thread);
    const std::set<int> wanted(thread.cpu_ids.begin(), thread.cpu_ids.end());
    if (!cpus || *cpus == wanted) return;
    lose(thread.name,
         thread.name + " was moved from " + cpu_text(wanted) + " to " + cpu_text(*cpus) + " while it ran.");
  }
};

MachineMonitor::MachineMonitor(std::vector<int> cpu_ids, const std::string& sys) : state_(std::make_shared<State>()) {
  state_->sys = sys;
  state_->allowed_first = allowed_cpus(0).value_or(std::set<int>());
  for (int cpu : cpu_ids) {
    const auto highest_khz = read_positive_number(frequency_file(sys, cpu, "cpuinfo_max_freq"));
    state_->cores[cpu].nominal_mhz = highest_khz.value_or(0) / 1e3;
  }
}

void MachineMonitor::sample(const std::vector<PinnedThread>& threads) {
  state_->sample_clocks();
  state_->look_for_lost_cores();
  for (const PinnedThread& thread : threads) state_->look_for_moved(thread);
}

std::map<int, ClockRange> MachineMonitor::clocks() const {
  std::map<int, ClockRange> ranges;
  for (const auto& [cpu, core] : state_->cores) {
    if (core.clocks.empty()) continue;
    ranges[cpu] = {static_cast<double>(core.clocks.lowest_mhz()), static_cast<double>(core.clocks.median_mhz()),
                   static_cast<double>(core.clocks.highest_mhz()), core.nominal_mhz};
  }
  return ranges;
}

std::vector<std::string> MachineMonitor::warnings() const {
  std::vector<std::string> warnings = state_->lost_sentences;
  for (const auto& [cpu, core] : state_->cores) {
    if (std::string text = throttling(cpu, core); !text.empty()) warnings.push_back(std::move(text));
  }
  return warnings;
}

std::vector<std::string> MachineMonitor::lost_cores() const { return state_->lost_sentences; }

}  // namespace cospipe

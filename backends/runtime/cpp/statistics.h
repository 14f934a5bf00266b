// What a run measured: the same figures, under the same names, as the Python runner's.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "link.h"
#include "machine_monitor.h"
#include "manifest.h"
#include "placement.h"

namespace cospipe {

// Microseconds of a clock that all threads share and that never goes back.
double now_us();

// Times in a fixed amount of memory: buckets that are each 0.5 % wider than the one before, from 0.1 us to 1000 s.
class TimeHistogram {
 public:
  void add(double time_us);
  uint64_t count() const { return count_; }
  double sum_us() const { return sum_us_; }
  // Nearest rank, as the geometric middle of its bucket; nothing when there are no times.
  std::optional<double> percentile_us(double percent) const;
  void add_all(const TimeHistogram& other);

 private:
  static constexpr size_t kBuckets = 4618;
  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  double sum_us_ = 0;
};

// What one replica did: written by its thread, read when the frames have left.
struct ReplicaTimes {
  TimeHistogram busy;
  double first_started_us = 0, last_finished_us = 0;

  void add(double started_us, double finished_us);
};

// Times of all frames that have left the pipeline.
struct RunStatistics {
  std::vector<std::vector<ReplicaTimes>> stages;  // by stage and replica
  std::vector<WaitingCounts> waiting;             // in front of each stage
  TimeHistogram latency;
  double first_result_us = 0, last_result_us = 0;
  std::map<int, ClockRange> clocks;
  std::vector<std::string> warnings;
  std::string interrupted_by;  // "SIGINT", "SIGTERM" or nothing

  void record(double entered_us, double finished_us);
  // Mean time between two results, from the first to the last; nothing for fewer than two frames.
  std::optional<double> period_us() const;
};

nlohmann::ordered_json summary(const RunStatistics& statistics, const Manifest& manifest,
                               const std::vector<std::vector<Placement>>& placements);

// The summary as lines for people.
std::string table(const nlohmann::ordered_json& summary);

}  // namespace cospipe

#include "statistics.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <set>

namespace cospipe {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kShortest_us = 0.1;
constexpr double kGrowth = 1.005;

double rounded(double value, int digits) {
  const double scale = std::pow(10, digits);
  return std::round(value * scale) / scale;
}

Json rounded(const std::optional<double>& value, int digits) {
  return value ? Json(rounded(*value, digits)) : Json(nullptr);
}

Json times(const TimeHistogram& busy) {
  return {{"busy_us", rounded(busy.sum_us(), 1)},
          {"median_us", rounded(busy.percentile_us(50), 1)},
          {"p99_us", rounded(busy.percentile_us(99), 1)}};
}

// The share of the time from a replica's first frame to its last in which it computed.
Json busy_share(const ReplicaTimes& done) {
  const double passed_us = done.last_finished_us - done.first_started_us;
  return passed_us > 0 ? Json(rounded(done.busy.sum_us() / passed_us, 4)) : Json(nullptr);
}

Json replica_summary(const Replica& replica, const Placement& placement, const ReplicaTimes& done) {
  Json result = {{"configuration", replica.configuration},
                 {"cpu_ids", placement.cpu_ids},
                 {"threads", placement.threads},
                 {"placement", name_of(placement.kind)},
                 {"frames", done.busy.count()},
                 {"predicted_us", rounded(replica.predicted_us, 1)},
                 {"busy_share", busy_share(done)}};
  result.update(times(done.busy));
  return result;
}

Json stage_summary(const Stage& stage, const std::vector<Placement>& placements,
                   const std::vector<ReplicaTimes>& replicas, const WaitingCounts& waiting) {
  TimeHistogram busy;
  std::set<int> cpus;
  int threads = 0;
  Json parts = Json::array();
  for (size_t i = 0; i < replicas.size(); ++i) {
    busy.add_all(replicas[i].busy);
    cpus.insert(placements[i].cpu_ids.begin(), placements[i].cpu_ids.end());
    threads += placements[i].threads;
    parts.push_back(replica_summary(stage.replicas[i], placements[i], replicas[i]));
  }
  Json result = {{"name", stage.name},
                 {"configuration", stage.configuration},
                 {"cpu_ids", cpus},
                 {"threads", threads},
                 {"placement", name_of(placements.front().kind)},
                 {"predicted_us", rounded(stage.predicted_us, 1)},
                 {"predicted_period_us", rounded(stage.predicted_period_us, 1)},
                 {"queue_depth_mean", rounded(waiting.mean(), 3)},
                 {"queue_depth_max", waiting.most}};
  result.update(times(busy));
  result["replicas"] = parts;
  return result;
}

Json clocks_summary(const std::map<int, ClockRange>& clocks) {
  Json result = Json::object();
  for (const auto& [cpu, range] : clocks) {
    const Json nominal = range.nominal_mhz > 0 ? Json(range.nominal_mhz) : Json(nullptr);
    result[std::to_string(cpu)] = {{"lowest", range.lowest_mhz},
                                   {"median", range.median_mhz},
                                   {"highest", range.highest_mhz},
                                   {"nominal", nominal}};
  }
  return result;
}

std::string in_milliseconds(const Json& time_us) {
  if (time_us.is_null()) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f ms", time_us.get<double>() / 1000);
  return text;
}

std::string row(const std::vector<std::string>& cells) {
  static const std::vector<int> widths = {24, 22, 12, 14, 14, 14, 8};
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    char text[256];
    std::snprintf(text, sizeof text, "%-*s ", widths[i], cells[i].c_str());
    line += text;
  }
  return line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
}

std::string replica_row(const std::string& stage, const Json& replica) {
  std::string cpus;
  for (const Json& cpu : replica["cpu_ids"]) cpus += (cpus.empty() ? "" : ",") + std::to_string(cpu.get<int>());
  const Json& share = replica["busy_share"];
  const std::string busy = share.is_null() ? "-" : std::to_string(std::lround(100 * share.get<double>())) + " %";
  return row({stage, replica["configuration"], cpus, in_milliseconds(replica["predicted_us"]),
              in_milliseconds(replica["median_us"]), in_milliseconds(replica["p99_us"]), busy});
}

}  // namespace

double now_us() {
  using Microseconds = std::chrono::duration<double, std::micro>;
  return std::chrono::duration_cast<Microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void TimeHistogram::add(double time_us) {
  const double bucket = std::log(std::max(time_us, kShortest_us) / kShortest_us) / std::log(kGrowth);
  buckets_[std::min(kBuckets - 1, static_cast<size_t>(bucket))] += 1;
  count_ += 1;
  sum_us_ += time_us;
}

std::optional<double> TimeHistogram::percentile_us(double percent) const {
  if (count_ == 0) return std::nullopt;
  const auto rank = static_cast<uint64_t>(std::ceil(percent / 100 * static_cast<double>(count_)));
  uint64_t seen = 0;
  size_t bucket = 0;
  while ((seen += buckets_[bucket]) < std::max<uint64_t>(rank, 1)) ++bucket;
  return kShortest_us * std::pow(kGrowth, static_cast<double>(bucket) + 0.5);
}

void TimeHistogram::add_all(const TimeHistogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_us_ += other.sum_us_;
}

void ReplicaTimes::add(double started_us, double finished_us) {
  if (busy.count() == 0) first_started_us = started_us;
  last_finished_us = finished_us;
  busy.add(finished_us - started_us);
}

void RunStatistics::record(double entered_us, double finished_us) {
  if (latency.count() == 0) first_result_us = finished_us;
  last_result_us = finished_us;
  latency.add(finished_us - entered_us);
}

// Frames that overtook the one before them end at the same time as that one: of these alone there is no period.
std::optional<double> RunStatistics::period_us() const {
  if (last_result_us <= first_result_us) return std::nullopt;
  return (last_result_us - first_result_us) / static_cast<double>(latency.count() - 1);
}

Json summary(const RunStatistics& statistics, const Manifest& manifest,
             const std::vector<std::vector<Placement>>& placements) {
  const std::optional<double> period_us = statistics.period_us();
  Json stages = Json::array();
  for (size_t i = 0; i < manifest.stages.size(); ++i)
    stages.push_back(
        stage_summary(manifest.stages[i], placements[i], statistics.stages[i], statistics.waiting[i]));
  const Json interrupted = statistics.interrupted_by.empty() ? Json(nullptr) : Json(statistics.interrupted_by);
  return {{"frames", statistics.latency.count()},
          {"period_us", rounded(period_us, 1)},
          {"frames_per_second", period_us ? Json(rounded(1e6 / *period_us, 2)) : Json(nullptr)},
          {"latency_median_us", rounded(statistics.latency.percentile_us(50), 1)},
          {"latency_p99_us", rounded(statistics.latency.percentile_us(99), 1)},
          {"interrupted_by", interrupted},
          {"warnings", statistics.warnings},
          {"clocks_mhz", clocks_summary(statistics.clocks)},
          {"stages", stages}};
}

std::string table(const Json& summary) {
  std::string text = row({"stage", "cores", "cpus", "predicted", "measured", "99th percentile", "busy"});
  for (const Json& stage : summary["stages"])
    for (const Json& replica : stage["replicas"]) text += replica_row(stage["name"], replica);
  text += std::to_string(summary["frames"].get<uint64_t>()) + " frames";
  if (summary["frames_per_second"].is_null()) return text + "\n";
  char figures[160];
  std::snprintf(figures, sizeof figures, ", %.2f frames/s, period %s, latency %s (99th percentile %s)\n",
                summary["frames_per_second"].get<double>(), in_milliseconds(summary["period_us"]).c_str(),
                in_milliseconds(summary["latency_median_us"]).c_str(),
                in_milliseconds(summary["latency_p99_us"]).c_str());
  return text + figures;
}

}  // namespace cospipe

#include "manifest_plan.h"

#include <optional>
#include <set>

#include "manifest_values.h"

namespace cospipe {

namespace {

constexpr int64_t kMostCpuId = 65535;  // the same as in cospipe/ir/plan.py

// Core types that a plan may name but that nothing is compiled for.
const std::set<std::string>& accelerators() {
  static const std::set<std::string> names{"gpu", "npu"};
  return names;
}

PlannedReplica read_planned_replica(const JsonValue& value) {
  const JsonObject object = value.object({"cores", "cpu_ids", "compute_us", "sharing"});
  PlannedReplica replica;
  const std::vector<JsonValue> parts = object["cores"].elements(1);
  for (const JsonValue& part : parts) {
    const JsonObject cores = part.object({"cluster", "cores"});
    const std::string cluster = cores["cluster"].text();
    const int64_t count = cores["cores"].integer(1, kMostThreads);
    if (accelerators().count(cluster) > 0) part.mistake("stages are compiled for CPU cores, not for the " + cluster);
    replica.configuration += (replica.configuration.empty() ? "" : "+") + cluster + ":" + std::to_string(count);
    replica.cores += count;
  }
  if (const auto cpu_ids = object.optional("cpu_ids")) {
    for (const JsonValue& id : cpu_ids->elements()) {
      replica.cpu_ids.push_back(static_cast<int>(id.integer(0, kMostCpuId)));
    }
  }
  replica.compute_us = object["compute_us"].number(0);
  const auto sharing = object.optional("sharing");
  const std::string how = sharing ? read_choice(*sharing, {"equal", "by-speed"}) : "equal";
  if (parts.size() > 1) replica.configuration += " " + how;
  return replica;
}

PlannedStage read_planned_stage(const JsonValue& value) {
  const JsonObject object = value.object({"name", "replicas", "nodes", "hand_over_us", "hand_over_bytes"});
  PlannedStage stage;
  stage.name = object["name"].text();
  for (const JsonValue& replica : object["replicas"].elements(1)) {
    stage.replicas.push_back(read_planned_replica(replica));
  }
  object["nodes"].texts(1);
  stage.hand_over_us = object["hand_over_us"].number(0);
  object["hand_over_bytes"].integer(0);
  return stage;
}

void check_numbers_by_name(const std::optional<JsonValue>& value) {
  if (!value) return;
  for (const auto& member : value->members()) member.second.number();
}

void check_search_report(const JsonValue& value) {
  const JsonObject object = value.object({"positions", "states", "transitions", "seconds", "limited_by"});
  for (const char* count : {"positions", "states", "transitions"}) object[count].integer(0);
  object["seconds"].number();
  object["limited_by"].text();
}

// What a plan says of clocks, energy and its search; running it does not need that.
void check_figures(const JsonObject& plan) {
  check_numbers_by_name(plan.optional("single_stage_us"));
  check_numbers_by_name(plan.optional("clock_mhz"));
  if (const auto contention = plan.optional("contention")) contention->number(1);
  for (const char* figure : {"energy_mj", "power_mw"}) {
    if (const auto value = plan.nullable(figure)) value->number(0);
  }
  if (const auto bytes = plan.nullable("memory_bytes")) bytes->integer(0);
  if (const auto search = plan.nullable("search")) check_search_report(*search);
}

}  // namespace

Plan read_plan(const JsonValue& value) {
  const JsonObject object = value.object({"soc", "objective", "stages", "single_stage_us", "contention", "clock_mhz",
                                          "energy_mj", "power_mw", "memory_bytes", "search"});
  Plan plan;
  plan.soc = object["soc"].text();
  object["objective"].text();
  for (const JsonValue& stage : object["stages"].elements(1)) plan.stages.push_back(read_planned_stage(stage));
  check_figures(object);
  return plan;
}

}  // namespace cospipe

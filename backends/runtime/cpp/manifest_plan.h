// Reader of a manifest's plan: which replicas of which stage run on which cores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace cospipe {

struct PlannedReplica {
  std::string configuration;
  int64_t cores = 0;
  std::vector<int> cpu_ids;
  double compute_us = 0;
};

struct PlannedStage {
  std::string name;
  std::vector<PlannedReplica> replicas;
  double hand_over_us = 0;
};

struct Plan {
  std::string soc;
  std::vector<PlannedStage> stages;
};

Plan read_plan(const JsonValue& value);

}  // namespace cospipe

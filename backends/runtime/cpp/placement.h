// Which cores of this machine the replicas of a plan's stages really get. The same as runtime/placement.py.
#pragma once

#include <string>
#include <vector>

#include "manifest.h"

namespace cospipe {

struct Placement {
  enum class Kind { kPlan, kSubstitute, kShared };
  std::vector<int> cpu_ids;
  int threads = 1;
  Kind kind = Kind::kPlan;
};

const char* name_of(Placement::Kind kind);  // "plan", "substitute" or "shared"

// Cores that this process may use and that are online. `sys` is /sys, another directory in tests.
std::vector<int> available_cpus(const std::string& sys = "/sys");

// The placements of every stage's replicas.
std::vector<std::vector<Placement>> place(const Manifest& manifest, const std::vector<int>& cpus);

// Why a placement of `place` is not the plan's, as sentences; empty when it is.
std::vector<std::string> placement_warnings(const Manifest& manifest, const std::vector<std::vector<Placement>>& placed,
                                            const std::vector<int>& cpus, const std::string& sys = "/sys");

}  // namespace cospipe

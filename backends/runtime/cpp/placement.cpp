#include "placement.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>

#include "sysfs.h"

namespace cospipe {

namespace {

bool is_planned_for_this_architecture(const Manifest& manifest) {
  return manifest.architecture == manifest.soc_architecture;
}

std::set<int> planned_cpus(const Manifest& manifest) {
  std::set<int> cpus;
  for (const Stage& stage : manifest.stages) {
    for (const Replica& replica : stage.replicas) cpus.insert(replica.cpu_ids.begin(), replica.cpu_ids.end());
  }
  return cpus;
}

size_t cores_wanted(const Manifest& manifest) {
  size_t cores = 0;
  for (const Stage& stage : manifest.stages) {
    for (const Replica& replica : stage.replicas) cores += replica.cpu_ids.size();
  }
  return cores;
}

Placement::Kind kind_of_placement(const Manifest& manifest, const std::set<int>& cpus) {
  const std::set<int> planned = planned_cpus(manifest);
  const bool has_all = std::includes(cpus.begin(), cpus.end(), planned.begin(), planned.end());
  if (is_planned_for_this_architecture(manifest) && has_all) return Placement::Kind::kPlan;
  return cores_wanted(manifest) > cpus.size() ? Placement::Kind::kShared : Placement::Kind::kSubstitute;
}

std::set<int> difference(const std::set<int>& all, const std::set<int>& without) {
  std::set<int> rest;
  std::set_difference(all.begin(), all.end(), without.begin(), without.end(), std::inserter(rest, rest.end()));
  return rest;
}

std::vector<std::string> reasons_for(const Manifest& manifest, const std::set<int>& cpus, const std::string& sys) {
  if (!is_planned_for_this_architecture(manifest)) {
    return {"The plan's cores are those of " + manifest.soc + ", which this machine is not"};
  }
  const std::set<int> missing = difference(planned_cpus(manifest), cpus);
  const std::set<int> off = difference(missing, online_cpus(sys).value_or(missing));
  const std::set<int> forbidden = difference(missing, off);
  std::vector<std::string> reasons;
  if (!off.empty()) reasons.push_back(cpu_text(off) + " of the plan is offline, or not there");
  if (!forbidden.empty()) {
    reasons.push_back(cpu_text(forbidden) + " of the plan may not be used by this process (cpuset or taskset)");
  }
  return reasons;
}

}  // namespace

const char* name_of(Placement::Kind kind) {
  if (kind == Placement::Kind::kPlan) return "plan";
  return kind == Placement::Kind::kShared ? "shared" : "substitute";
}

std::vector<int> available_cpus(const std::string& sys) {
  const std::set<int> allowed = allowed_cpus(0).value_or(std::set<int>());
  const std::set<int> off = difference(allowed, online_cpus(sys).value_or(allowed));
  const std::set<int> available = difference(allowed, off);
  return {available.begin(), available.end()};
}

std::vector<std::vector<Placement>> place(const Manifest& manifest, const std::vector<int>& cpus) {
  const Placement::Kind kind = kind_of_placement(manifest, {cpus.begin(), cpus.end()});
  std::vector<std::vector<Placement>> placed;
  auto next = cpus.begin();
  for (const Stage& stage : manifest.stages) {
    std::vector<Placement>& of_stage = placed.emplace_back();
    for (const Replica& replica : stage.replicas) {
      const size_t wanted = replica.cpu_ids.size();
      Placement placement{replica.cpu_ids, static_cast<int>(std::min(wanted, cpus.size())), kind};
      if (kind == Placement::Kind::kShared) placement.cpu_ids = cpus;
      if (kind == Placement::Kind::kSubstitute) {
        placement.cpu_ids.assign(next, next + static_cast<ptrdiff_t>(wanted));
        next += static_cast<ptrdiff_t>(wanted);
      }
      of_stage.push_back(std::move(placement));
    }
  }
  return placed;
}

std::vector<std::string> placement_warnings(const Manifest& manifest, const std::vector<std::vector<Placement>>& placed,
                                            const std::vector<int>& cpus, const std::string& sys) {
  const Placement::Kind kind = placed.at(0).at(0).kind;
  if (kind == Placement::Kind::kPlan) return {};
  std::set<int> used;
  for (const std::vector<Placement>& stage : placed) {
    for (const Placement& replica : stage) used.insert(replica.cpu_ids.begin(), replica.cpu_ids.end());
  }
  const std::string where = kind == Placement::Kind::kShared ? "all stages share" : "its stages run on";
  std::vector<std::string> warnings;
  for (const std::string& reason : reasons_for(manifest, {cpus.begin(), cpus.end()}, sys)) {
    warnings.push_back(reason + "; " + where + " " + cpu_text(used) + " instead.");
  }
  return warnings;
}

}  // namespace cospipe

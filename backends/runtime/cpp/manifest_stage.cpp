#include "manifest_stage.h"

#include <set>

#include "manifest_values.h"

namespace cospipe {

namespace {

std::string read_prepare_function(const JsonValue& value) {
  if (value.is_null()) return "";
  static const std::string kStart = "prepare_";
  const std::string name = value.text();
  const bool is_valid = name.compare(0, kStart.size(), kStart) == 0 && are_digits(name.substr(kStart.size()));
  if (!is_valid && !value.is_missing()) value.mistake("'" + name + "' is not prepare_ and a number");
  return name;
}

WeightArgument read_weight_argument(const JsonValue& value) {
  const JsonObject object = value.object({"tensor", "function", "weights"});
  WeightArgument argument{read_tensor_spec(object["tensor"]), read_prepare_function(object["function"]),
                          object["weights"].texts(1)};
  if (argument.function.empty() && argument.weights != std::vector<std::string>{argument.tensor.name}) {
    value.mistake(argument.tensor.text() + " is made from " + joined(argument.weights, ", ") +
                  ", but no function is named");
  }
  return argument;
}

AdapterSlot read_adapter_slot(const JsonValue& value) {
  const JsonObject object = value.object({"weight", "coefficients", "places"});
  return {object["weight"].text(), object["coefficients"].text(), object["places"].text()};
}

// Nodes that are computed slowly are told when a bundle is made; running it does not need them.
void check_generic_node(const JsonValue& value) {
  const JsonObject object = value.object({"name", "module", "predicted_us"});
  object["name"].text();
  object["module"].text();
  object["predicted_us"].number(0);
}

const std::vector<std::string>& build_keys() {
  static const std::vector<std::string> keys{"library",           "core_type",        "threads",
                                             "shares_by_speed", "weight_arguments", "generic_nodes"};
  return keys;
}

StageBuild read_build(const JsonObject& object) {
  StageBuild build;
  build.library = read_file_name(object["library"]);
  build.core_type = object["core_type"].text();
  if (const auto threads = object.optional("threads")) {
    build.threads = static_cast<int>(threads->integer(1, kMostThreads));
  }
  if (const auto shares = object.optional("shares_by_speed")) build.shares_by_speed = shares->boolean();
  for (const JsonValue& argument : object["weight_arguments"].elements()) {
    build.weight_arguments.push_back(read_weight_argument(argument));
  }
  if (const auto nodes = object.optional("generic_nodes")) {
    for (const JsonValue& node : nodes->elements()) check_generic_node(node);
  }
  return build;
}

std::vector<size_t> read_replica_builds(const JsonObject& object) {
  const auto builds = object.optional("replica_builds");
  if (!builds) return {0};
  std::vector<size_t> result;
  for (const JsonValue& build : builds->elements(1)) result.push_back(static_cast<size_t>(build.integer(0)));
  return result;
}

// What a stage prepares or replaces though it is none of its weights.
std::vector<std::string> unknown_weights(const Stage& stage) {
  std::set<std::string> wanted(stage.replaceable.begin(), stage.replaceable.end());
  for (const StageBuild& build : stage.builds) {
    for (const WeightArgument& argument : build.weight_arguments) {
      wanted.insert(argument.weights.begin(), argument.weights.end());
    }
  }
  for (const AdapterSlot& slot : stage.adapter_slots) wanted.insert({slot.weight, slot.coefficients, slot.places});
  for (const std::string& name : stage.weight_names) wanted.erase(name);
  return {wanted.begin(), wanted.end()};
}

void check_stage(const JsonValue& value, const Stage& stage, const std::vector<size_t>& replica_builds) {
  const std::vector<std::string> unknown = unknown_weights(stage);
  if (!unknown.empty()) {
    value.mistake(stage.name + " prepares or replaces " + joined(unknown, ", ") + ", which is none of its weights");
  }
  const std::set<size_t> used(replica_builds.begin(), replica_builds.end());
  if (used.size() != stage.builds.size() || *used.rbegin() != stage.builds.size() - 1) {
    value.mistake(stage.name + " has " + std::to_string(stage.builds.size()) + " builds, its replicas run others");
  }
}

}  // namespace

Stage read_stage(const JsonValue& value) {
  std::vector<std::string> keys{"name",          "weights",     "inputs",         "outputs",       "weight_names",
                                "adapter_slots", "replaceable", "further_builds", "replica_builds"};
  keys.insert(keys.end(), build_keys().begin(), build_keys().end());
  const JsonObject object = value.object(keys);
  Stage stage;
  stage.name = object["name"].text();
  stage.weights = read_file_name(object["weights"]);
  stage.inputs = read_tensor_specs(object["inputs"]);
  stage.outputs = read_tensor_specs(object["outputs"]);
  stage.weight_names = object["weight_names"].texts();
  if (const auto slots = object.optional("adapter_slots")) {
    for (const JsonValue& slot : slots->elements()) stage.adapter_slots.push_back(read_adapter_slot(slot));
  }
  if (const auto replaceable = object.optional("replaceable")) stage.replaceable = replaceable->texts();
  stage.builds.push_back(read_build(object));
  if (const auto further = object.optional("further_builds")) {
    for (const JsonValue& build : further->elements()) stage.builds.push_back(read_build(build.object(build_keys())));
  }
  const std::vector<size_t> replica_builds = read_replica_builds(object);
  if (!replica_builds.empty()) check_stage(value, stage, replica_builds);
  for (size_t build : replica_builds) stage.replicas.push_back({build, {}, "", 0});
  return stage;
}

}  // namespace cospipe

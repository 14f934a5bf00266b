#include "manifest.h"

#include <algorithm>
#include <optional>
#include <set>

#include "errors.h"
#include "json.h"

namespace cospipe {

namespace {

// Limits of the plausible, the same as in cospipe/ir/manifest.py.
constexpr size_t kMostManifestBytes = size_t{64} << 20;
constexpr size_t kMostFiles = 65536;
constexpr size_t kMostNameBytes = 4096;
constexpr int64_t kMostExtent = int64_t{1} << 31;
constexpr int64_t kMostThreads = 1024;  // of a library, and of all replicas together
constexpr int64_t kMostCpuId = 65535;

// Core types that a plan may name but that nothing is compiled for.
const std::set<std::string>& accelerators() {
  static const std::set<std::string> names{"gpu", "npu"};
  return names;
}

std::string joined(const std::vector<std::string>& parts, const std::string& between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

bool is_digit(char character) { return character >= '0' && character <= '9'; }

bool are_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

// ---- Values of one field ----

bool is_plain_relative(const std::string& name) {
  if (name.find('\\') != std::string::npos || name.find('\0') != std::string::npos) return false;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

void check_file_name(const JsonValue& value, const std::string& name) {
  if (!is_plain_relative(name)) return value.mistake("'" + name + "' is not a path inside the bundle");
  if (name.size() > kMostNameBytes) {
    return value.mistake("a file's name has more than " + std::to_string(kMostNameBytes) + " bytes");
  }
  if (name == "manifest.json" || name == "manifest.sig") value.mistake(name + " cannot vouch for itself");
}

std::string read_file_name(const JsonValue& value) {
  const std::string name = value.text();
  if (!value.is_missing()) check_file_name(value, name);
  return name;
}

// One of some texts; another one is a mistake.
std::string read_choice(const JsonValue& value, const std::vector<std::string>& choices) {
  const std::string text = value.text();
  const bool is_known = std::find(choices.begin(), choices.end(), text) != choices.end();
  if (!value.is_missing() && !is_known) value.mistake("is '" + text + "', it must be " + joined(choices, " or "));
  return text;
}

std::vector<int64_t> read_shape(const JsonValue& value) {
  std::vector<int64_t> shape;
  for (const JsonValue& extent : value.elements()) shape.push_back(extent.integer(0, kMostExtent));
  if (shape.size() <= kMostDimensions) return shape;
  value.mistake("has " + std::to_string(shape.size()) + " dimensions");
  return {};
}

ElementType read_element_type(const JsonValue& value) {
  const std::string name = value.text();
  const std::optional<ElementType> type = element_type(name);
  if (!type && !value.is_missing()) value.mistake("'" + name + "' is no element type of a network's tensor");
  return type.value_or(ElementType::kFloat32);
}

TensorSpec read_tensor_spec(const JsonValue& value) {
  const JsonObject object = value.object({"name", "shape", "dtype"});
  TensorSpec spec{object["name"].text(), read_shape(object["shape"]), read_element_type(object["dtype"])};
  if (dense_bytes(spec.shape, spec.type)) return spec;
  value.mistake("no memory could hold a tensor of the shape " + shape_text(spec.shape));
  spec.shape.clear();
  return spec;
}

std::vector<TensorSpec> read_tensor_specs(const JsonValue& value) {
  std::vector<TensorSpec> specs;
  for (const JsonValue& element : value.elements()) specs.push_back(read_tensor_spec(element));
  return specs;
}

// ---- Stages, as they are compiled ----

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

// Reads a compiled stage; its replicas have a build and nothing else yet.
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

// ---- The plan ----

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

struct Plan {
  std::string soc;
  std::vector<PlannedStage> stages;
};

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

// ---- Stages and plan together ----

// Every replica's configuration: "big:2", or "4x big:1, 2x little:2".
std::string configurations(const PlannedStage& planned) {
  std::vector<std::pair<std::string, int>> counts;  // in the order in which they first appear
  for (const PlannedReplica& replica : planned.replicas) {
    const auto is_same = [&](const auto& counted) { return counted.first == replica.configuration; };
    const auto found = std::find_if(counts.begin(), counts.end(), is_same);
    if (found != counts.end()) {
      ++found->second;
    } else {
      counts.emplace_back(replica.configuration, 1);
    }
  }
  std::vector<std::string> texts;
  for (const auto& [text, count] : counts) texts.push_back((count > 1 ? std::to_string(count) + "x " : "") + text);
  return joined(texts, ", ");
}

// Time between two results of replicas that work side by side.
double period_us(const std::vector<Replica>& replicas) {
  double results_per_us = 0;
  for (const Replica& replica : replicas) {
    if (replica.predicted_us == 0) return 0;
    results_per_us += 1 / replica.predicted_us;
  }
  return 1 / results_per_us;
}

// What does not fit about a replica that the plan places.
void check_replica(const Stage& stage, const Replica& replica, const PlannedReplica& planned, Mistakes& mistakes) {
  if (static_cast<int64_t>(planned.cpu_ids.size()) != planned.cores) {
    mistakes.add("", stage.name + " has " + std::to_string(planned.cpu_ids.size()) + " cpu ids for " +
                         planned.configuration);
  }
  const int threads = stage.builds[replica.build].threads;
  if (threads != planned.cores) {
    mistakes.add("", stage.name + " runs a library for " + std::to_string(threads) + " threads on " +
                         planned.configuration);
  }
}

// Gives a stage what its plan says.
void join(const PlannedStage& planned, Stage& stage, Mistakes& mistakes) {
  if (stage.replicas.size() != planned.replicas.size()) {
    return mistakes.add("", stage.name + " has " + std::to_string(planned.replicas.size()) +
                                " replicas, builds are named for " + std::to_string(stage.replicas.size()));
  }
  stage.configuration = configurations(planned);
  for (size_t i = 0; i < stage.replicas.size(); ++i) {
    Replica& replica = stage.replicas[i];
    check_replica(stage, replica, planned.replicas[i], mistakes);
    replica.cpu_ids = planned.replicas[i].cpu_ids;
    replica.configuration = planned.replicas[i].configuration;
    replica.predicted_us = planned.replicas[i].compute_us + planned.hand_over_us;
    stage.predicted_us = std::max(stage.predicted_us, replica.predicted_us);
  }
  stage.predicted_period_us = period_us(stage.replicas);
}

void check_names(const std::vector<Stage>& stages, Mistakes& mistakes) {
  std::set<std::string> names;
  for (const Stage& stage : stages) {
    if (!names.insert(stage.name).second) mistakes.add("", "two stages have the name " + stage.name);
  }
}

void check_thread_count(const std::vector<Stage>& stages, Mistakes& mistakes) {
  int64_t threads = 0;
  for (const Stage& stage : stages) {
    for (const Replica& replica : stage.replicas) threads += stage.builds[replica.build].threads;
  }
  if (threads <= kMostThreads) return;
  mistakes.add("", "all replicas together have " + std::to_string(threads) + " threads, more than " +
                       std::to_string(kMostThreads));
}

void join_plan(const Plan& plan, Manifest& manifest, Mistakes& mistakes) {
  const auto is_named = [](const PlannedStage& planned, const Stage& stage) { return planned.name == stage.name; };
  if (!std::equal(plan.stages.begin(), plan.stages.end(), manifest.stages.begin(), manifest.stages.end(), is_named)) {
    return mistakes.add("", "the stages of the plan and of the files differ");
  }
  manifest.soc = plan.soc;
  for (size_t i = 0; i < plan.stages.size(); ++i) join(plan.stages[i], manifest.stages[i], mistakes);
  check_names(manifest.stages, mistakes);
  check_thread_count(manifest.stages, mistakes);
}

// ---- The whole ----

std::vector<std::string> names_beside(const std::vector<TensorSpec>& specs, const std::set<std::string>& known) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) {
    if (known.count(spec.name) == 0) names.push_back(spec.name);
  }
  return names;
}

// Every value must be written before it is read.
void check_values(const Manifest& manifest, Mistakes& mistakes) {
  std::set<std::string> known;
  for (const TensorSpec& spec : manifest.inputs) known.insert(spec.name);
  for (const Stage& stage : manifest.stages) {
    const std::vector<std::string> unknown = names_beside(stage.inputs, known);
    if (!unknown.empty()) {
      mistakes.add("", stage.name + " reads " + joined(unknown, ", ") + ", which nothing before it writes");
    }
    for (const TensorSpec& spec : stage.outputs) known.insert(spec.name);
  }
  const std::vector<std::string> unknown = names_beside(manifest.outputs, known);
  if (!unknown.empty()) mistakes.add("", "no stage writes the output " + joined(unknown, ", "));
}

void check_records(const Manifest& manifest, Mistakes& mistakes) {
  std::set<std::string> named{manifest.reference};
  for (const Stage& stage : manifest.stages) {
    named.insert(stage.weights);
    for (const StageBuild& build : stage.builds) named.insert(build.library);
  }
  if (!manifest.runner.program.empty()) named.insert(manifest.runner.program);
  named.insert(manifest.runner.libraries.begin(), manifest.runner.libraries.end());
  std::vector<std::string> missing;
  for (const std::string& name : named) {
    if (manifest.files.count(name) == 0) missing.push_back(name);
  }
  if (!missing.empty()) mistakes.add("", "no SHA-256 is given for " + joined(missing, ", "));
}

FileRecord read_file_record(const JsonValue& value) {
  const JsonObject object = value.object({"bytes", "sha256"});
  FileRecord record{static_cast<uint64_t>(object["bytes"].integer(0)), object["sha256"].text()};
  const bool is_digest =
      record.sha256.size() == 64 && record.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!is_digest && !object["sha256"].is_missing()) object["sha256"].mistake("must be 64 hexadecimal digits");
  return record;
}

std::map<std::string, FileRecord> read_files(const JsonValue& value) {
  std::map<std::string, FileRecord> files;
  const auto members = value.members();
  if (members.size() > kMostFiles) value.mistake("has more than " + std::to_string(kMostFiles) + " files");
  for (const auto& [name, record] : members) {
    check_file_name(record, name);
    files[name] = read_file_record(record);
  }
  return files;
}

bool is_version(const std::string& text) {
  const size_t dot = text.find('.');
  return dot != std::string::npos && are_digits(text.substr(0, dot)) && are_digits(text.substr(dot + 1));
}

RunnerFiles read_runner(const JsonValue& value) {
  const JsonObject object = value.object({"program", "libraries", "glibc"});
  RunnerFiles runner;
  runner.program = read_file_name(object["program"]);
  for (const JsonValue& library : object["libraries"].elements(1)) {
    runner.libraries.push_back(read_file_name(library));
  }
  const JsonValue glibc = object["glibc"];
  const std::string version = glibc.text();
  if (!is_version(version) && !glibc.is_missing()) glibc.mistake("'" + version + "' is not a version, like 2.28");
  return runner;
}

Manifest read_manifest(const JsonValue& value, Mistakes& mistakes) {
  const JsonObject object = value.object({"format", "version", "cospipe_version", "tvm_version", "model",
                                          "architecture", "soc_architecture", "passes", "winograd", "plan", "inputs",
                                          "outputs", "stages", "reference", "relative_tolerance", "runner", "files"});
  Manifest manifest;
  read_choice(object["format"], {"cospipe-bundle"});
  object["version"].integer();
  manifest.cospipe_version = object["cospipe_version"].text();
  manifest.tvm_version = object["tvm_version"].text();
  manifest.model = object["model"].text();
  manifest.architecture = read_choice(object["architecture"], {"aarch64", "x86_64"});
  manifest.soc_architecture = object["soc_architecture"].text();
  object["passes"].text();
  object["winograd"].boolean();
  const Plan plan = read_plan(object["plan"]);
  manifest.inputs = read_tensor_specs(object["inputs"]);
  manifest.outputs = read_tensor_specs(object["outputs"]);
  for (const JsonValue& stage : object["stages"].elements(1)) manifest.stages.push_back(read_stage(stage));
  manifest.reference = read_file_name(object["reference"]);
  manifest.relative_tolerance = object["relative_tolerance"].number();
  if (!object["relative_tolerance"].is_missing() && manifest.relative_tolerance <= 0) {
    object["relative_tolerance"].mistake("must be greater than 0");
  }
  if (const auto runner = object.nullable("runner")) manifest.runner = read_runner(*runner);
  manifest.files = read_files(object["files"]);
  if (!mistakes.empty()) return manifest;
  check_records(manifest, mistakes);
  join_plan(plan, manifest, mistakes);
  check_values(manifest, mistakes);
  return manifest;
}

void check_version(const JsonDocument& document, const std::string& origin) {
  Mistakes unread;
  const std::optional<JsonValue> version = document.root(unread).find("version");
  if (!version || version->dump() == std::to_string(kFormatVersion)) return;
  throw Error(origin + " is of format version " + printable(version->dump()) + ", this version of cospipe reads " +
              std::to_string(kFormatVersion) + "; compile the model again.");
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& origin) {
  if (text.size() > kMostManifestBytes) {
    throw Error(origin + " is not a bundle manifest: it is larger than " + std::to_string(kMostManifestBytes) +
                " bytes.");
  }
  const JsonDocument document(text, origin);
  check_version(document, origin);
  Mistakes mistakes;
  Manifest manifest = read_manifest(document.root(mistakes), mistakes);
  mistakes.raise(origin + " is not a bundle manifest this version reads");
  return manifest;
}

}  // namespace cospipe

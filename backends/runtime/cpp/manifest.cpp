#include "manifest.h"

#include <algorithm>
#include <optional>
#include <set>

#include "errors.h"
#include "json.h"
#include "manifest_plan.h"
#include "manifest_stage.h"
#include "manifest_values.h"

namespace cospipe {

namespace {

// Limits of the plausible, the same as in cospipe/ir/manifest.py.
constexpr size_t kMostManifestBytes = size_t{64} << 20;
constexpr size_t kMostFiles = 65536;

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

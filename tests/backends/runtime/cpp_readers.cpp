// Opens what the command line names and prints what the C++ readers read of it, as one line of JSON; an error is
// printed, too, so that nothing but a crash makes this program fail.
//
//   cpp_readers bundle FOLDER [PUBLIC_KEY] | tensors FILE | adapter FOLDER FILE
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapter.h"
#include "bundle.h"
#include "errors.h"
#include "json.h"
#include "tensor_file.h"

namespace cospipe {

static std::string hexadecimal(const Data& data) {
  std::string text;
  char digits[3];
  const auto* bytes = static_cast<const unsigned char*>(data.begin);
  for (uint64_t i = 0; i < data.bytes; ++i) {
    std::snprintf(digits, sizeof(digits), "%02x", bytes[i]);
    text += digits;
  }
  return text;
}

static Json json_of(const TensorSpec& spec) {
  return {{"name", spec.name}, {"shape", spec.shape}, {"dtype", name_of(spec.type)}};
}

template <typename Part>
static Json list_of(const std::vector<Part>& parts) {
  Json list = Json::array();
  for (const Part& part : parts) list.push_back(json_of(part));
  return list;
}

static Json json_of(const WeightArgument& argument) {
  const Json function = argument.function.empty() ? Json(nullptr) : Json(argument.function);
  return {{"tensor", json_of(argument.tensor)}, {"function", function}, {"weights", argument.weights}};
}

static Json json_of(const AdapterSlot& slot) {
  return {{"weight", slot.weight}, {"coefficients", slot.coefficients}, {"places", slot.places}};
}

static Json json_of(const StageBuild& build) {
  return {{"library", build.library},
          {"core_type", build.core_type},
          {"threads", build.threads},
          {"shares_by_speed", build.shares_by_speed},
          {"weight_arguments", list_of(build.weight_arguments)}};
}

static Json json_of(const Replica& replica) {
  return {{"build", replica.build},
          {"cpu_ids", replica.cpu_ids},
          {"configuration", replica.configuration},
          {"predicted_us", replica.predicted_us}};
}

static Json json_of(const Stage& stage) {
  return {{"name", stage.name},
          {"weights", stage.weights},
          {"inputs", list_of(stage.inputs)},
          {"outputs", list_of(stage.outputs)},
          {"weight_names", stage.weight_names},
          {"adapter_slots", list_of(stage.adapter_slots)},
          {"replaceable", stage.replaceable},
          {"builds", list_of(stage.builds)},
          {"replicas", list_of(stage.replicas)},
          {"configuration", stage.configuration},
          {"predicted_us", stage.predicted_us},
          {"predicted_period_us", stage.predicted_period_us}};
}

static Json json_of(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, record] : manifest.files) {
    files[name] = {{"bytes", record.bytes}, {"sha256", record.sha256}};
  }
  return {{"cospipe_version", manifest.cospipe_version},
          {"tvm_version", manifest.tvm_version},
          {"model", manifest.model},
          {"architecture", manifest.architecture},
          {"soc_architecture", manifest.soc_architecture},
          {"soc", manifest.soc},
          {"inputs", list_of(manifest.inputs)},
          {"outputs", list_of(manifest.outputs)},
          {"stages", list_of(manifest.stages)},
          {"reference", manifest.reference},
          {"relative_tolerance", manifest.relative_tolerance},
          {"runner", {{"program", manifest.runner.program}, {"libraries", manifest.runner.libraries}}},
          {"files", files}};
}

// Every tensor's number type, shape and bytes; given back in between, which must change nothing.
static Json json_of(const TensorFile& file) {
  Json tensors = Json::object();
  for (const auto& [name, entry] : file.header().entries) {
    const Data data = file.tensor(name);
    const std::string before = hexadecimal(data);
    file.release(name);
    const bool is_aligned = reinterpret_cast<uintptr_t>(data.begin) % kAlignmentBytes == 0;
    tensors[name] = {{"dtype", name_of(entry.spec.type)},
                     {"shape", entry.spec.shape},
                     {"data", hexadecimal(data)},
                     {"is_kept", before == hexadecimal(data)},
                     {"is_aligned", is_aligned}};
  }
  return {{"tensors", tensors}, {"metadata", file.header().metadata}};
}

static Json json_of_adapter(const std::string& folder, const std::string& adapter) {
  const Bundle bundle = open_bundle(folder);
  Json stages = Json::array();
  for (const Overrides& overrides : adapter_overrides(bundle.manifest, bundle.weights, adapter)) {
    Json values = Json::object();
    for (const auto& [name, data] : overrides) values[name] = hexadecimal(data);
    stages.push_back(values);
  }
  return stages;
}

static Json read(const std::vector<std::string>& arguments) {
  const std::string& kind = arguments.at(0);
  if (kind == "tensors") return json_of(TensorFile(arguments.at(1)));
  if (kind == "adapter") return json_of_adapter(arguments.at(1), arguments.at(2));
  const std::string key = arguments.size() > 2 ? arguments[2] : "";
  return json_of(open_bundle(arguments.at(1), key).manifest);
}

}  // namespace cospipe

int main(int count, char** arguments) {
  cospipe::Json answer;
  try {
    answer["value"] = cospipe::read({arguments + 1, arguments + count});
  } catch (const cospipe::Error& error) {
    answer["error"] = error.what();
    answer["is_usage"] = dynamic_cast<const cospipe::UsageError*>(&error) != nullptr;
  }
  std::cout << answer.dump(-1, ' ', true, cospipe::Json::error_handler_t::replace) << std::endl;
  return 0;
}

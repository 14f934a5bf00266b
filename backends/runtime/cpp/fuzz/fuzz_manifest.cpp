// Any bytes as a manifest: it is refused with a sentence, or whoever runs it can rely on it.
#include "errors.h"
#include "manifest.h"
#include "memory_file.h"

namespace cospipe {

static void expect_inside(const Manifest& manifest, const std::string& name) {
  expect(manifest.files.count(name) == 1);
  expect(name.front() != '/' && ("/" + name + "/").find("/../") == std::string::npos);
}

static void expect_sizes(const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) expect(dense_bytes(spec.shape, spec.type).has_value());
}

static void expect_stage(const Manifest& manifest, const Stage& stage) {
  expect_inside(manifest, stage.weights);
  expect_sizes(stage.inputs);
  expect_sizes(stage.outputs);
  expect(!stage.builds.empty() && !stage.replicas.empty() && !stage.configuration.empty());
  for (const StageBuild& build : stage.builds) {
    expect_inside(manifest, build.library);
    for (const WeightArgument& argument : build.weight_arguments) expect(!argument.weights.empty());
  }
  for (const Replica& replica : stage.replicas) {
    const StageBuild& build = stage.builds.at(replica.build);
    expect(build.threads >= 1 && replica.cpu_ids.size() == static_cast<size_t>(build.threads));
    expect(replica.predicted_us >= 0 && stage.predicted_us >= replica.predicted_us);
    for (int id : replica.cpu_ids) expect(id >= 0);
  }
}

static void expect_runnable(const Manifest& manifest) {
  expect(!manifest.stages.empty() && manifest.relative_tolerance > 0);
  expect_sizes(manifest.inputs);
  expect_sizes(manifest.outputs);
  expect_inside(manifest, manifest.reference);
  for (const std::string& library : manifest.runner.libraries) expect_inside(manifest, library);
  for (const Stage& stage : manifest.stages) expect_stage(manifest, stage);
}

}  // namespace cospipe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  try {
    cospipe::expect_runnable(cospipe::parse_manifest({reinterpret_cast<const char*>(data), bytes}, "manifest.json"));
  } catch (const cospipe::Error& error) {
    cospipe::expect(*error.what() != '\0');
  }
  return 0;
}

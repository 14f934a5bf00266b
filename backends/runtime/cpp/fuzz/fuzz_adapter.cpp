// Any bytes as an adapter file for a small bundle: it is refused with a sentence, or takes the place of stored weights
// of just that size.
#include "adapter.h"
#include "errors.h"
#include "memory_file.h"

namespace cospipe {

// Two weights with room for adapters and one that can be replaced, all of zeros: `adapter_seeds` in
// tests/backends/runtime/fuzz_seeds.py makes adapters for them.
static std::string stored_weights() {
  std::string header =
      R"({"first":{"dtype":"F32","shape":[4,6],"data_offsets":[0,96]},)"
      R"("first.coefficients":{"dtype":"F32","shape":[5],"data_offsets":[96,116]},)"
      R"("first.places":{"dtype":"I32","shape":[5],"data_offsets":[116,136]},)"
      R"("second":{"dtype":"F16","shape":[2,3,2],"data_offsets":[136,160]},)"
      R"("second.coefficients":{"dtype":"F16","shape":[4],"data_offsets":[160,168]},)"
      R"("second.places":{"dtype":"I64","shape":[4],"data_offsets":[168,200]},)"
      R"("bias":{"dtype":"F16","shape":[3],"data_offsets":[200,206]}})";
  std::string text;
  for (int shift = 0; shift < 64; shift += 8) text += static_cast<char>(uint64_t{header.size()} >> shift & 255);
  return text + header + std::string(206, '\0');
}

static Manifest small_manifest() {
  Stage stage;
  stage.name = "stage0";
  stage.weight_names = {"first", "first.coefficients", "first.places", "second",
                        "second.coefficients", "second.places", "bias"};
  stage.adapter_slots = {{"first", "first.coefficients", "first.places"},
                         {"second", "second.coefficients", "second.places"}};
  stage.replaceable = {"bias"};
  Manifest manifest;
  manifest.stages.push_back(stage);
  return manifest;
}

static void expect_fitting(const Overrides& overrides, const TensorFile& weights) {
  for (const auto& [name, data] : overrides) {
    expect(is_aligned(data.begin) && data.bytes == weights.header().entries.at(name).spec.bytes());
  }
}

}  // namespace cospipe

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const std::string text = cospipe::stored_weights();
  static const cospipe::MemoryFile base(text.data(), text.size());
  static const auto weights = std::make_shared<const cospipe::TensorFile>(base.path());
  static const cospipe::Manifest manifest = cospipe::small_manifest();
  const cospipe::MemoryFile adapter(data, bytes);
  try {
    for (const auto& overrides : cospipe::adapter_overrides(manifest, {weights}, adapter.path())) {
      cospipe::expect_fitting(overrides, *weights);
    }
  } catch (const cospipe::Error& error) {
    cospipe::expect(*error.what() != '\0');
  }
  return 0;
}

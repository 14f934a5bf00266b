// Adapter files, and what one changes among the stored weights of a bundle. The same as cospipe/ir/adapter_file.py and
// cospipe/backends/runtime/adapter_weights.py.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "manifest.h"
#include "tensor.h"
#include "tensor_file.h"

namespace cospipe {

// Values that take the place of stored weights, by weight name.
using Overrides = std::map<std::string, Data>;

// Fingerprints of a bundle's weights, each computed when an adapter asks for it the first time. For one thread at a time.
class BaseFingerprints {
 public:
  // The first half of the SHA-256 of a stored weight's shape and of its values in FP32.
  const std::string& of(const TensorFile& file, const std::string& weight);

 private:
  std::map<std::pair<const TensorFile*, std::string>, std::string> known_;
};

// Tells whether a text of the command line names an adapter's file: neither nothing nor "none".
bool names_adapter(const std::string& text);

// Reads an adapter file and returns what it puts in the place of stored weights: one entry for each stage of the
// manifest, `files` are their weights in the same order. Slots that it does not name get zeros, so that their weights
// are the base's. Throws UsageError when there is no such file, Error when it is damaged, contradicts itself, does not
// fit, or was trained on another base; everything is listed. `fingerprints` are kept for the next adapter where given.
std::vector<Overrides> adapter_overrides(const Manifest& manifest,
                                         const std::vector<std::shared_ptr<const TensorFile>>& files,
                                         const std::string& adapter_path, BaseFingerprints* fingerprints = nullptr);

}  // namespace cospipe

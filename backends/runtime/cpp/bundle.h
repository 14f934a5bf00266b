// A bundle's directory: nothing of it is used before all of it was checked.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "manifest.h"
#include "tensor_file.h"

namespace cospipe {

struct Bundle {
  std::string folder;  // absolute
  Manifest manifest;
  std::vector<std::shared_ptr<const TensorFile>> weights;  // one for each stage

  std::string file(const std::string& name) const { return folder + "/" + name; }
};

// Opens a bundle: the signature of its manifest when a public key is given (a file with 32 bytes, or their PEM), then
// the manifest, then size and SHA-256 of every file, then that the files hold the tensors that the manifest names.
// Throws UsageError when there is no bundle, Error when anything is wrong; everything is listed.
Bundle open_bundle(const std::string& folder, const std::string& public_key_file = "");

}  // namespace cospipe

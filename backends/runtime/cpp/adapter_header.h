// The JSON header of an adapter file. The same as AdapterHeader of cospipe/ir/adapter_file.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cospipe {

struct AdaptedWeight {
  std::vector<int64_t> shape;
  int64_t n = 0;  // coefficients
  double alpha = 0;
  std::string fingerprint;  // of the base's values
};

struct AdapterHeader {
  std::map<std::string, AdaptedWeight> weights;
  std::map<std::string, std::vector<int64_t>> trained;  // shapes of parameters that were trained whole
};

// Reads a header; `origin` names the file in errors. Throws Error, with every mistake, when it cannot be used.
AdapterHeader parse_adapter_header(std::string_view text, const std::string& origin);

}  // namespace cospipe

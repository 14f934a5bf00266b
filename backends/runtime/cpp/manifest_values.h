// Readers of single values of a manifest: names of files, choices, tensors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "manifest.h"

namespace cospipe {

constexpr int64_t kMostThreads = 1024;  // of a library, and of all replicas together

std::string joined(const std::vector<std::string>& parts, const std::string& between);
bool are_digits(std::string_view text);

// A path inside the bundle; another one is a mistake.
void check_file_name(const JsonValue& value, const std::string& name);
std::string read_file_name(const JsonValue& value);
// One of some texts; another one is a mistake.
std::string read_choice(const JsonValue& value, const std::vector<std::string>& choices);
TensorSpec read_tensor_spec(const JsonValue& value);
std::vector<TensorSpec> read_tensor_specs(const JsonValue& value);

}  // namespace cospipe

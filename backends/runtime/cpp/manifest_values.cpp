#include "manifest_values.h"

#include <algorithm>
#include <optional>

namespace cospipe {

namespace {

// Limits of the plausible, the same as in cospipe/ir/manifest.py.
constexpr size_t kMostNameBytes = 4096;
constexpr int64_t kMostExtent = int64_t{1} << 31;

bool is_digit(char character) { return character >= '0' && character <= '9'; }

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

}  // namespace

std::string joined(const std::vector<std::string>& parts, const std::string& between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

bool are_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
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

std::string read_choice(const JsonValue& value, const std::vector<std::string>& choices) {
  const std::string text = value.text();
  const bool is_known = std::find(choices.begin(), choices.end(), text) != choices.end();
  if (!value.is_missing() && !is_known) value.mistake("is '" + text + "', it must be " + joined(choices, " or "));
  return text;
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

}  // namespace cospipe

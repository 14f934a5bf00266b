#include "adapter_header.h"

#include <algorithm>
#include <limits>
#include <set>

#include "errors.h"
#include "json.h"
#include "tensor.h"

namespace cospipe {

namespace {

constexpr int kAdapterVersion = 1;
constexpr int64_t kMostExtent = int64_t{1} << 31;
constexpr size_t kFingerprintDigits = 32;

std::vector<int64_t> read_shape(const JsonValue& value, int64_t least_extent, size_t least_dimensions) {
  std::vector<int64_t> shape;
  for (const JsonValue& extent : value.elements()) shape.push_back(extent.integer(least_extent, kMostExtent));
  const bool is_possible = shape.size() <= kMostDimensions && dense_bytes(shape, ElementType::kFloat64).has_value();
  if (!value.is_missing() && (shape.size() < least_dimensions || !is_possible)) {
    value.mistake("a tensor cannot have " + std::to_string(shape.size()) + " dimensions of these extents");
  }
  return is_possible ? shape : std::vector<int64_t>{};
}

bool is_fingerprint(const std::string& text) {
  return text.size() == kFingerprintDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

AdaptedWeight read_adapted_weight(const JsonValue& value) {
  const JsonObject object = value.object({"shape", "n", "alpha", "fingerprint"});
  AdaptedWeight weight;
  weight.shape = read_shape(object["shape"], 1, 2);
  weight.n = object["n"].integer(1);
  weight.alpha = object["alpha"].number();
  const JsonValue fingerprint = object["fingerprint"];
  weight.fingerprint = fingerprint.text();
  if (!fingerprint.is_missing() && !is_fingerprint(weight.fingerprint)) {
    fingerprint.mistake("must be " + std::to_string(kFingerprintDigits) + " hexadecimal digits");
  }
  return weight;
}

// ---- Options that the adapter was made with (cospipe/ir/spectral_config.py) ----

void check_choice(const JsonValue& value, const std::set<std::string>& choices) {
  const std::string text = value.text();
  if (choices.count(text) == 0) value.mistake("is '" + text + "', which is not known");
}

bool is_count(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos &&
         text.find_first_not_of('0') != std::string::npos;
}

std::vector<std::string> patterns_in(const std::string& text) {
  std::vector<std::string> patterns;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find('|', start), text.size());
    if (end > start) patterns.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return patterns;
}

// Patterns of weights, "*.query:1000|*.value"; a number behind a colon cannot be together with a budget.
void check_layers(const JsonValue& value, bool has_budget) {
  const std::vector<std::string> patterns = patterns_in(value.text());
  if (patterns.empty()) value.mistake("it names no weight; * stands for all");
  for (const std::string& pattern : patterns) {
    const size_t colon = pattern.rfind(':');
    if (colon == std::string::npos) continue;
    if (colon == 0 || !is_count(pattern.substr(colon + 1))) {
      value.mistake(pattern + ": write PATTERN or PATTERN:N with N at least 1");
    } else if (has_budget) {
      value.mistake(pattern + ": a budget shares all coefficients, so no pattern can have its own number");
    }
  }
}

void check_options(const JsonValue& value) {
  const JsonObject options = value.object(
      {"n", "budget", "alpha", "selection", "delta", "distance", "seed", "layers", "also_train"});
  if (const auto n = options.optional("n")) n->integer(1);
  int64_t budget = 0;
  if (const auto given = options.optional("budget")) budget = given->integer(0);
  if (const auto alpha = options.optional("alpha")) {
    if (alpha->number() == 0) alpha->mistake("must be a number other than zero");
  }
  if (const auto selection = options.optional("selection")) {
    check_choice(*selection, {"hybrid", "random", "low", "gradient"});
  }
  if (const auto delta = options.optional("delta")) {
    if (delta->number(0) > 1) delta->mistake("is a share, from 0 to 1");
  }
  if (const auto distance = options.optional("distance")) check_choice(*distance, {"normalized", "corner", "paper"});
  if (const auto seed = options.optional("seed")) seed->integer(0, std::numeric_limits<uint32_t>::max());
  if (const auto layers = options.optional("layers")) check_layers(*layers, budget > 0);
  if (const auto also_train = options.optional("also_train")) also_train->text();
}

AdapterHeader read_header(const JsonValue& value) {
  const JsonObject object = value.object({"format", "version", "base", "config", "labels", "weights", "trained"});
  AdapterHeader header;
  if (const auto format = object.optional("format")) check_choice(*format, {"cospipe-adapter"});
  if (const auto version = object.optional("version")) version->integer(kAdapterVersion, kAdapterVersion);
  if (const auto base = object.optional("base")) base->text();
  if (const auto config = object.optional("config")) check_options(*config);
  if (const auto labels = object.optional("labels")) labels->texts();
  if (const auto weights = object.optional("weights")) {
    for (const auto& [name, weight] : weights->members()) header.weights[name] = read_adapted_weight(weight);
  }
  if (const auto trained = object.optional("trained")) {
    for (const auto& [name, shape] : trained->members()) header.trained[name] = read_shape(shape, 0, 0);
  }
  return header;
}

// Says which version a header is of when it is newer; older ones do not exist.
void check_version(const JsonDocument& document, const std::string& origin) {
  Mistakes unread;
  const std::optional<JsonValue> version = document.root(unread).find("version");
  if (!version) return;
  const int64_t number = version->integer();
  if (!unread.empty() || number <= kAdapterVersion) return;
  throw Error(origin + " is of format version " + version->dump() + ", this version of cospipe reads " +
              std::to_string(kAdapterVersion) + "; update cospipe.");
}

}  // namespace

AdapterHeader parse_adapter_header(std::string_view text, const std::string& origin) {
  const JsonDocument document(text, "The header of " + origin);
  check_version(document, origin);
  Mistakes mistakes;
  AdapterHeader header = read_header(document.root(mistakes));
  mistakes.raise("The header of " + origin + " cannot be read");
  return header;
}

}  // namespace cospipe

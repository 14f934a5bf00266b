#include "json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "errors.h"

namespace cospipe {

namespace {

constexpr size_t kMostMistakes = 100;
constexpr size_t kMostTextBytes = 300;

// Refuses, while a document is parsed, what its parser would accept.
class Limits {
 public:
  void see(int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth > kMostJsonDepth) throw Error("it is nested more than " + std::to_string(kMostJsonDepth) + " deep");
    if (++values_ > kMostJsonValues) throw Error("it has more than " + std::to_string(kMostJsonValues) + " values");
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key && !keys_.back().insert(parsed.get_ref<const std::string&>()).second) {
      throw Error("it names " + parsed.get<std::string>() + " twice");
    }
  }

 private:
  size_t values_ = 0;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

// nlohmann's message without its own number: "line 1, column 5: syntax error while ...".
std::string reason(const Json::exception& error) {
  std::string text = error.what();
  for (const std::string start : {"parse error at ", "] "}) {
    const size_t found = text.find(start);
    if (found != std::string::npos) return text.substr(found + start.size());
  }
  return text;
}

bool is_control(unsigned char byte) { return byte < 0x20 || byte == 0x7f; }

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }  // of UTF-8

// The longest beginning of a text that is not too long and ends between characters.
std::string_view beginning(std::string_view text) {
  if (text.size() <= kMostTextBytes) return text;
  size_t end = kMostTextBytes;
  while (end > 0 && continues_character(text[end])) --end;
  return text.substr(0, end);
}

}  // namespace

JsonDocument::JsonDocument(std::string_view text, const std::string& origin) {
  Limits limits;
  const auto see = [&limits](int depth, Json::parse_event_t event, Json& parsed) {
    limits.see(depth, event, parsed);
    return true;
  };
  try {
    if (text.substr(0, 3) == "\xef\xbb\xbf") throw Error("it begins with a byte order mark");
    json_ = std::make_shared<const Json>(Json::parse(text.begin(), text.end(), see));
  } catch (const Json::exception& error) {
    throw Error(origin + " is not valid JSON: " + printable(reason(error)) + ".");
  } catch (const Error& error) {
    throw Error(origin + " is not read: " + printable(error.what()) + ".");
  }
}

std::string printable(std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (const char character : beginning(text)) {
    const auto byte = static_cast<unsigned char>(character);
    if (is_control(byte)) {
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    } else {
      result += character;
    }
  }
  return text.size() > kMostTextBytes ? result + "..." : result;
}

void Mistakes::add(const std::string& place, const std::string& what) {
  if (++count_ > kMostMistakes) return;
  sentences_.push_back(place.empty() ? printable(what) : printable(place) + ": " + printable(what));
}

void Mistakes::raise(const std::string& what) const {
  if (empty()) return;
  std::vector<std::string> sentences = sentences_;
  if (count_ > kMostMistakes) sentences.push_back("and " + std::to_string(count_ - kMostMistakes) + " more");
  throw Error(several(what, sentences));
}

bool JsonValue::is_null() const { return !is_missing() && json_->is_null(); }

std::string JsonValue::dump() const { return is_missing() ? "" : json_->dump(); }

std::string JsonValue::text() const {
  if (is_missing()) return "";
  if (json_->is_string()) return json_->get<std::string>();
  mistake("must be a text");
  return "";
}

bool JsonValue::boolean() const {
  if (is_missing()) return false;
  if (json_->is_boolean()) return json_->get<bool>();
  mistake("must be true or false");
  return false;
}

int64_t JsonValue::integer(int64_t least, int64_t most) const {
  if (is_missing()) return least;
  if (!json_->is_number_integer()) {
    mistake("must be a whole number");
    return least;
  }
  const bool is_too_large =
      json_->is_number_unsigned() && json_->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  const int64_t value = json_->get<int64_t>();
  if (!is_too_large && value >= least && value <= most) return value;
  mistake("is " + json_->dump() + ", it must be from " + std::to_string(least) + " to " + std::to_string(most));
  return least;
}

double JsonValue::number(double least) const {
  if (is_missing()) return 0;
  if (!json_->is_number()) {
    mistake("must be a number");
    return 0;
  }
  const double value = json_->get<double>();  // finite: the parser refuses others
  if (value >= least) return value;
  mistake("is " + json_->dump() + ", it must be at least " + Json(least).dump());
  return 0;
}

std::vector<JsonValue> JsonValue::elements(size_t least) const {
  if (is_missing()) return {};
  if (!json_->is_array()) {
    mistake("must be a list");
    return {};
  }
  if (json_->size() < least) mistake("must not be empty");
  std::vector<JsonValue> result;
  for (const Json& element : *json_) result.push_back(child(&element, std::to_string(result.size())));
  return result;
}

std::vector<std::string> JsonValue::texts(size_t least) const {
  std::vector<std::string> result;
  for (const JsonValue& element : elements(least)) result.push_back(element.text());
  return result;
}

std::vector<std::pair<std::string, JsonValue>> JsonValue::members() const {
  if (is_missing()) return {};
  if (!json_->is_object()) {
    mistake("must be an object");
    return {};
  }
  std::vector<std::pair<std::string, JsonValue>> result;
  for (const auto& [key, value] : json_->items()) result.emplace_back(key, child(&value, key));
  return result;
}

JsonObject JsonValue::object(const std::vector<std::string>& keys) const {
  const auto found = members();
  for (const auto& [key, value] : found) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) value.mistake("this version knows no such field");
  }
  const bool is_object = !is_missing() && json_->is_object();
  return JsonObject(is_object ? *this : JsonValue(nullptr, place_, *mistakes_));
}

JsonValue JsonValue::child(const Json* json, const std::string& key) const {
  return JsonValue(json, place_.empty() ? key : place_ + "." + key, *mistakes_);
}

std::optional<JsonValue> JsonValue::find(const std::string& key) const {
  if (is_missing() || !json_->is_object()) return std::nullopt;
  const auto found = json_->find(key);
  return found == json_->end() ? std::nullopt : std::optional<JsonValue>(child(&*found, key));
}

JsonValue JsonObject::operator[](const std::string& key) const {
  if (value_.is_missing()) return value_;
  if (const auto found = value_.find(key)) return *found;
  const JsonValue missing = value_.child(nullptr, key);
  missing.mistake("is missing");
  return missing;
}

std::optional<JsonValue> JsonObject::optional(const std::string& key) const { return value_.find(key); }

std::optional<JsonValue> JsonObject::nullable(const std::string& key) const {
  std::optional<JsonValue> found = optional(key);
  return found && !found->is_null() ? found : std::nullopt;
}

}  // namespace cospipe

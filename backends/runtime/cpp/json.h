// JSON that strangers wrote: limits while it is parsed, and reading it with every mistake noted at its place.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cospipe {

using Json = nlohmann::json;

constexpr int kMostJsonDepth = 64;
constexpr size_t kMostJsonValues = size_t{1} << 21;  // some 250 MB in memory

// A text that can be shown on a terminal: no control characters, and not too long.
std::string printable(std::string_view text);

// What is wrong with a document, each mistake with its place.
class Mistakes {
 public:
  void add(const std::string& place, const std::string& what);
  bool empty() const { return count_ == 0; }
  // Throws Error when there are any.
  void raise(const std::string& what) const;

 private:
  size_t count_ = 0;
  std::vector<std::string> sentences_;  // the first hundred
};

class JsonObject;

// A value of a document and its place, "stages.0.library". Reading what it is not notes a mistake and returns something
// harmless; a value that is missing has been noted already.
class JsonValue {
 public:
  JsonValue(const Json* json, std::string place, Mistakes& mistakes)
      : json_(json), place_(std::move(place)), mistakes_(&mistakes) {}

  const std::string& place() const { return place_; }
  bool is_missing() const { return json_ == nullptr; }
  bool is_null() const;
  std::string dump() const;  // as JSON

  std::string text() const;
  bool boolean() const;
  int64_t integer(int64_t least = std::numeric_limits<int64_t>::min(),
                  int64_t most = std::numeric_limits<int64_t>::max()) const;
  double number(double least = -std::numeric_limits<double>::infinity()) const;

  std::vector<JsonValue> elements(size_t least = 0) const;
  std::vector<std::string> texts(size_t least = 0) const;
  // An object of any keys.
  std::vector<std::pair<std::string, JsonValue>> members() const;
  // An object of these keys; others are mistakes.
  JsonObject object(const std::vector<std::string>& keys) const;
  // The value of a key, if this is an object that has it.
  std::optional<JsonValue> find(const std::string& key) const;

  void mistake(const std::string& what) const { mistakes_->add(place_, what); }

 private:
  JsonValue child(const Json* json, const std::string& key) const;

  const Json* json_;
  std::string place_;
  Mistakes* mistakes_;

  friend class JsonObject;
};

class JsonObject {
 public:
  // The value of a key that must be there.
  JsonValue operator[](const std::string& key) const;
  // The value of a key, unless it is not there.
  std::optional<JsonValue> optional(const std::string& key) const;
  // The same, when null stands for nothing, too.
  std::optional<JsonValue> nullable(const std::string& key) const;

 private:
  friend class JsonValue;
  explicit JsonObject(JsonValue value) : value_(std::move(value)) {}

  JsonValue value_;
};

class JsonDocument {
 public:
  // Parses a text. Throws Error, with the position of the mistake, when it is no JSON, names a key twice, or is deeper
  // or larger than the limits.
  JsonDocument(std::string_view text, const std::string& origin);

  // The whole document; it and `mistakes` must outlive what is read of it.
  JsonValue root(Mistakes& mistakes) const { return JsonValue(json_.get(), "", mistakes); }

 private:
  std::shared_ptr<const Json> json_;
};

}  // namespace cospipe

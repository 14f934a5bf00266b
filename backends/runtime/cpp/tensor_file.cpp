#include "tensor_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "errors.h"
#include "json.h"
#include "mapped_file.h"

namespace cospipe {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMostHeaderBytes = 100'000'000;  // as the safetensors library has it
constexpr const char* kMetadata = "__metadata__";

struct SafetensorsType {
  const char* code;
  ElementType type;
};

constexpr SafetensorsType kTypes[] = {
    {"F64", ElementType::kFloat64}, {"F32", ElementType::kFloat32}, {"F16", ElementType::kFloat16},
    {"I64", ElementType::kInt64},   {"I32", ElementType::kInt32},   {"I16", ElementType::kInt16},
    {"I8", ElementType::kInt8},     {"U8", ElementType::kUInt8},    {"BOOL", ElementType::kBool},
};

std::optional<ElementType> type_of_code(const std::string& code) {
  for (const SafetensorsType& known : kTypes) {
    if (code == known.code) return known.type;
  }
  return std::nullopt;
}

uint64_t header_bytes(std::string_view file, const std::string& origin) {
  uint64_t length = 0;
  for (size_t i = std::min<size_t>(file.size(), kLengthBytes); i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(file[i]);
  }
  if (file.size() < kLengthBytes || length > file.size() - kLengthBytes) {
    throw Error(origin + " is not a safetensors file, or is cut off inside its header.");
  }
  if (length <= kMostHeaderBytes) return length;
  throw Error(origin + " is not a valid safetensors file: its header has " + std::to_string(length) + " bytes.");
}

std::vector<int64_t> read_extents(const JsonValue& value) {
  std::vector<int64_t> shape;
  for (const JsonValue& extent : value.elements()) shape.push_back(extent.integer(0));
  if (shape.size() <= kMostDimensions) return shape;
  value.mistake("has " + std::to_string(shape.size()) + " dimensions");
  return {};
}

ElementType read_type(const JsonValue& value) {
  const std::string code = value.text();
  const std::optional<ElementType> type = type_of_code(code);
  if (!type && !value.is_missing()) value.mistake("'" + code + "' is no element type that is known here");
  return type.value_or(ElementType::kFloat32);
}

// Reads where a tensor lies in `data_bytes` of data that begin at `start` of the file.
TensorEntry read_entry(const std::string& name, const JsonValue& value, uint64_t start, uint64_t data_bytes) {
  const JsonObject object = value.object({"dtype", "shape", "data_offsets"});
  TensorEntry entry{{name, read_extents(object["shape"]), read_type(object["dtype"])}, start};
  const std::vector<JsonValue> offsets = object["data_offsets"].elements();
  if (offsets.size() != 2) {
    value.mistake("data_offsets must be two numbers");
    return entry;
  }
  const auto begin = static_cast<uint64_t>(offsets[0].integer(0));
  const auto end = static_cast<uint64_t>(offsets[1].integer(0));
  const std::optional<uint64_t> bytes = dense_bytes(entry.spec.shape, entry.spec.type);
  entry.offset_bytes = start + begin;
  if (end > data_bytes || begin > end || bytes != end - begin) {
    value.mistake("a tensor of " + shape_text(entry.spec.shape) + " " + name_of(entry.spec.type) +
                  " does not fit bytes " + std::to_string(begin) + " to " + std::to_string(end));
  }
  return entry;
}

std::map<std::string, std::string> read_metadata(const JsonValue& value) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.members()) metadata[key] = text.text();
  return metadata;
}

// No byte belongs to two tensors.
void check_overlaps(const std::map<std::string, TensorEntry>& entries, Mistakes& mistakes) {
  std::vector<const TensorEntry*> order;
  for (const auto& [name, entry] : entries) {
    if (entry.spec.bytes() > 0) order.push_back(&entry);
  }
  const auto is_before = [](const TensorEntry* a, const TensorEntry* b) { return a->offset_bytes < b->offset_bytes; };
  std::sort(order.begin(), order.end(), is_before);
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset_bytes + order[i - 1]->spec.bytes() <= order[i]->offset_bytes) continue;
    mistakes.add(order[i]->spec.name, "lies over " + order[i - 1]->spec.name);
  }
}

std::string_view text_of(const Data& data) { return {static_cast<const char*>(data.begin), data.bytes}; }

}  // namespace

TensorHeader read_tensor_header(std::string_view file, const std::string& origin) {
  const uint64_t length = header_bytes(file, origin);
  const uint64_t start = kLengthBytes + length;
  const JsonDocument document(file.substr(kLengthBytes, length), "The header of " + origin);
  Mistakes mistakes;
  TensorHeader header;
  for (const auto& [name, value] : document.root(mistakes).members()) {
    if (name == kMetadata) header.metadata = read_metadata(value);
    if (name != kMetadata) header.entries[name] = read_entry(name, value, start, file.size() - start);
  }
  if (mistakes.empty()) check_overlaps(header.entries, mistakes);
  mistakes.raise(origin + " is not a valid safetensors file");
  return header;
}

TensorFile::TensorFile(const std::string& path) : path_(path) {
  const Data mapped = map_file(path);
  mapping_ = mapped.owner;
  bytes_ = mapped.bytes;
  header_ = read_tensor_header(text_of(mapped), path);
}

bool TensorFile::holds(const TensorSpec& spec) const {
  const auto found = header_.entries.find(spec.name);
  if (found == header_.entries.end()) return false;
  return found->second.spec.shape == spec.shape && found->second.spec.type == spec.type;
}

Data TensorFile::tensor(const std::string& name) const {
  const auto found = header_.entries.find(name);
  if (found == header_.entries.end()) throw Error(path_ + " does not hold " + name + ".");
  const TensorEntry& entry = found->second;
  const Data mapped{mapping_, static_cast<const char*>(mapping_.get()) + entry.offset_bytes, entry.spec.bytes()};
  const Data result = aligned(mapped);
  if (result.begin != mapped.begin) release(name);
  return result;
}

void TensorFile::release(const std::string& name) const {
  const auto found = header_.entries.find(name);
  if (found == header_.entries.end()) return;
  const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const TensorEntry& entry = found->second;
  const uint64_t start = (entry.offset_bytes + page_bytes - 1) / page_bytes * page_bytes;
  const uint64_t end = (entry.offset_bytes + entry.spec.bytes()) / page_bytes * page_bytes;
  if (start >= end) return;
  char* memory = static_cast<char*>(const_cast<void*>(mapping_.get()));
  ::madvise(memory + start, end - start, MADV_DONTNEED);  // advice: when it is not taken nothing is lost
}

}  // namespace cospipe

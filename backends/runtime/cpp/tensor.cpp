#include "tensor.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "errors.h"

namespace cospipe {

namespace {

struct ElementTypeName {
  ElementType type;
  const char* name;
  size_t bytes;
};

constexpr ElementTypeName kElementTypes[] = {
    {ElementType::kFloat64, "float64", 8}, {ElementType::kFloat32, "float32", 4}, {ElementType::kFloat16, "float16", 2},
    {ElementType::kInt64, "int64", 8},     {ElementType::kInt32, "int32", 4},     {ElementType::kInt16, "int16", 2},
    {ElementType::kInt8, "int8", 1},       {ElementType::kUInt8, "uint8", 1},     {ElementType::kBool, "bool", 1},
};

const ElementTypeName& entry(ElementType type) {
  for (const ElementTypeName& candidate : kElementTypes) {
    if (candidate.type == type) return candidate;
  }
  throw Error("A tensor has an element type that does not exist.");
}

}  // namespace

const char* name_of(ElementType type) { return entry(type).name; }

size_t element_bytes(ElementType type) { return entry(type).bytes; }

std::optional<ElementType> element_type(std::string_view name) {
  for (const ElementTypeName& candidate : kElementTypes) {
    if (candidate.name == name) return candidate.type;
  }
  return std::nullopt;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  if (shape.empty()) return "scalar";
  std::string text;
  for (int64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return text;
}

std::optional<uint64_t> dense_bytes(const std::vector<int64_t>& shape, ElementType type) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  uint64_t bytes = element_bytes(type);
  bool is_empty = false;
  for (int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) is_empty = true;
    if (extent == 0) continue;  // the other extents must make sense though there are no elements
    if (bytes > kMost / static_cast<uint64_t>(extent)) return std::nullopt;
    bytes *= static_cast<uint64_t>(extent);
  }
  return is_empty ? 0 : bytes;
}

std::string TensorSpec::text() const { return name + " (" + shape_text(shape) + " " + name_of(type) + ")"; }

Buffer::Buffer(uint64_t bytes) : bytes_(bytes) {
  constexpr uint64_t kMost = std::numeric_limits<ptrdiff_t>::max() - kAlignmentBytes;
  void* memory = nullptr;
  if (bytes <= kMost) {
    const size_t whole = (static_cast<size_t>(bytes) / kAlignmentBytes + 1) * kAlignmentBytes;
    memory = std::aligned_alloc(kAlignmentBytes, whole);
  }
  if (memory == nullptr) throw Error("There is no memory for " + std::to_string(bytes) + " bytes.");
  memory_ = std::shared_ptr<void>(memory, std::free);
}

Data aligned(const Data& data) {
  if (reinterpret_cast<uintptr_t>(data.begin) % kAlignmentBytes == 0) return data;
  const Buffer copy(data.bytes);
  if (data.bytes > 0) std::memcpy(copy.begin(), data.begin, data.bytes);
  return copy.data();
}

}  // namespace cospipe

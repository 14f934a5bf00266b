// Tensors in the memory of this process, and what is known of them without their numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cospipe {

constexpr size_t kAlignmentBytes = 64;
constexpr size_t kMostDimensions = 16;

enum class ElementType { kFloat64, kFloat32, kFloat16, kInt64, kInt32, kInt16, kInt8, kUInt8, kBool };

// numpy's name, for example "float32".
const char* name_of(ElementType type);
std::optional<ElementType> element_type(std::string_view name);
size_t element_bytes(ElementType type);

// "1x3x224x224", or "scalar".
std::string shape_text(const std::vector<int64_t>& shape);

// Bytes of a dense tensor; nothing when they do not fit into 2^63, or an extent is negative.
std::optional<uint64_t> dense_bytes(const std::vector<int64_t>& shape, ElementType type);

// Name, shape and element type of a tensor that enters or leaves a stage.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  ElementType type = ElementType::kFloat32;

  uint64_t bytes() const { return *dense_bytes(shape, type); }  // whoever reads a spec checks that it has a size
  std::string text() const;                                     // "input (1x3x224x224 float32)"
};

// Dense numbers somewhere in memory, which `owner` keeps alive. What it points to is never written to.
struct Data {
  std::shared_ptr<const void> owner;
  const void* begin = nullptr;
  uint64_t bytes = 0;
};

// Fresh memory at a 64-byte boundary. Throws Error when there is none.
struct Buffer {
  explicit Buffer(uint64_t bytes);
  void* begin() const { return memory_.get(); }
  uint64_t bytes() const { return bytes_; }
  Data data() const { return {memory_, memory_.get(), bytes_}; }

 private:
  std::shared_ptr<void> memory_;
  uint64_t bytes_;
};

// The same numbers at a 64-byte boundary: as they lie if they lie so, else a copy.
Data aligned(const Data& data);

// One input of the network (in the order of Manifest::inputs) or one result (in the order of Manifest::outputs).
using Frame = std::vector<Data>;

}  // namespace cospipe

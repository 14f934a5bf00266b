// Safetensors files, mapped read-only.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tensor.h"

namespace cospipe {

// Where one tensor lies; `offset_bytes` counts from the start of the file.
struct TensorEntry {
  TensorSpec spec;
  uint64_t offset_bytes = 0;
};

struct TensorHeader {
  std::map<std::string, TensorEntry> entries;
  std::map<std::string, std::string> metadata;
};

// Reads the header of a safetensors file that lies in memory. Throws Error when it, or an entry, does not fit the file.
TensorHeader read_tensor_header(std::string_view file, const std::string& origin);

// A mapped safetensors file.
class TensorFile {
 public:
  // Throws Error when the file cannot be mapped or is not valid.
  explicit TensorFile(const std::string& path);

  const TensorHeader& header() const { return header_; }
  bool holds(const TensorSpec& spec) const;  // with this name, shape and type

  // Where the tensor lies when that is at a 64-byte boundary, else a copy. The name must be in the header.
  Data tensor(const std::string& name) const;

  // Gives a tensor's memory back; whoever touches it again finds what the file holds.
  void release(const std::string& name) const;

 private:
  std::string path_;
  std::shared_ptr<const void> mapping_;
  uint64_t bytes_ = 0;
  TensorHeader header_;
};

}  // namespace cospipe

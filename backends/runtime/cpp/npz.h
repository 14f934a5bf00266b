// numpy's .npy and .npz files.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor.h"

namespace cospipe {

struct Array {
  TensorSpec spec;  // its name is the member's, without ".npy"; of an .npy file it is empty
  Data data;
};

// Read whole files; throw Error when they are damaged, compressed, of big-endian or Fortran-ordered numbers, of Python
// objects, or of a type that networks do not take. Memory is only taken for what the file really holds.
Array read_npy(const std::string& path);
std::map<std::string, Array> read_npz(const std::string& path);

// Writes an uncompressed .npz (with zip64 where it is needed) under another name and renames it.
void write_npz(const std::string& path, const std::vector<Array>& arrays);

// An array whose numbers lie in several pieces of memory, one behind the other.
struct StackedArray {
  TensorSpec spec;
  std::vector<Data> pieces;
};

// The same for arrays in pieces, which are never copied together.
void write_stacked_npz(const std::string& path, const std::vector<StackedArray>& arrays);

}  // namespace cospipe

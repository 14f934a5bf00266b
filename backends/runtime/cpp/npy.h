// One array in numpy's format: a header in the syntax of a Python dictionary, and the numbers.
#pragma once

#include <string>

#include "npz.h"

namespace cospipe {

// Reads an array that takes a whole file, or a whole member of an archive; `origin` names it in errors.
Array parse_npy(const Data& file, const std::string& name, const std::string& origin);

// What comes before the numbers of an array.
std::string npy_header(const TensorSpec& spec);

}  // namespace cospipe

// A file as memory.
#pragma once

#include <string>

#include "tensor.h"

namespace cospipe {

// Maps a regular file for reading; an empty one has no memory. Throws Error when it cannot be read.
Data map_file(const std::string& path);

}  // namespace cospipe

// Frames in files of their own.
#pragma once

#include <string>

#include "frames.h"

namespace cospipe {

// Reads a frame from an .npy (networks with one input) or .npz file. Throws Error that names the file.
Frame read_frame(const Manifest& manifest, const std::string& path);

// Whether a name is one of a file that `read_frame` reads.
bool is_frame_file(const std::string& name);

}  // namespace cospipe

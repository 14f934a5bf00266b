// Which values of a frame go through which stages, and how many frames may be inside a pipeline.
#pragma once

#include <cstddef>
#include <vector>

#include "manifest.h"

namespace cospipe {

// Which of a frame's values a stage takes and makes, and which nobody needs behind it.
struct StageWiring {
  std::vector<size_t> inputs, outputs, done_with;
};

// Values are numbered; the inputs of the network are the first ones.
struct Wiring {
  std::vector<StageWiring> stages;
  std::vector<size_t> results;  // by output of the network
  size_t value_count = 0;
};

Wiring wire(const Manifest& manifest);

// Frames that may be inside: accepted, and not handed out yet. The same as in the Python runner.
size_t frames_inside(const Manifest& manifest, size_t queue_depth);

}  // namespace cospipe

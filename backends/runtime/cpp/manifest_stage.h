// Reader of a manifest's stages as they are compiled.
#pragma once

#include "json.h"
#include "manifest.h"

namespace cospipe {

// Reads a compiled stage; its replicas have a build and nothing else yet.
Stage read_stage(const JsonValue& value);

}  // namespace cospipe

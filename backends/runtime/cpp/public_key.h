// Ed25519 public keys as they lie in files.
#pragma once

#include <string>

#include "hashes.h"

namespace cospipe {

// Reads a public key: 32 raw bytes, or the PEM that `openssl pkey -pubout` writes. Throws UsageError when there is no
// such file, or it is something else.
Ed25519Key read_public_key(const std::string& path);

}  // namespace cospipe

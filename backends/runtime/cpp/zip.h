// Uncompressed zip archives, as numpy.savez writes them.
#pragma once

#include <string>
#include <vector>

#include "tensor.h"

namespace cospipe {

struct ZipMember {
  std::string name;
  Data data;
};

// The members of an archive, with checksums that are right. Throws Error when it is damaged, compressed or encrypted,
// or when two members have the same name or share bytes. `origin` names it in errors.
std::vector<ZipMember> read_zip(const Data& file, const std::string& origin);

// A member that lies in pieces in memory.
struct ZipPieces {
  std::string name;
  std::vector<Data> pieces;
};

// Writes an archive under another name and renames it. Throws Error.
void write_zip(const std::string& path, const std::vector<ZipPieces>& members);

}  // namespace cospipe

#include "npz.h"

#include <algorithm>
#include <string_view>

#include "errors.h"
#include "mapped_file.h"
#include "npy.h"
#include "zip.h"

namespace cospipe {

namespace {

constexpr std::string_view kEnding = ".npy";

std::string array_name(const std::string& member, const std::string& path) {
  const size_t length = member.size() - std::min(member.size(), kEnding.size());
  if (member.substr(length) == kEnding) return member.substr(0, length);
  throw Error(path + ": it holds something that is not an .npy array");
}

}  // namespace

std::map<std::string, Array> read_npz(const std::string& path) {
  std::map<std::string, Array> arrays;
  for (const ZipMember& member : read_zip(map_file(path), path)) {
    const std::string name = array_name(member.name, path);
    arrays[name] = parse_npy(member.data, name, path + ", " + name);
  }
  return arrays;
}

void write_stacked_npz(const std::string& path, const std::vector<StackedArray>& arrays) {
  std::vector<std::string> headers;
  for (const StackedArray& array : arrays) headers.push_back(npy_header(array.spec));
  std::vector<ZipPieces> members;
  for (size_t i = 0; i < arrays.size(); ++i) {
    ZipPieces member{arrays[i].spec.name + std::string(kEnding), {{nullptr, headers[i].data(), headers[i].size()}}};
    member.pieces.insert(member.pieces.end(), arrays[i].pieces.begin(), arrays[i].pieces.end());
    members.push_back(std::move(member));
  }
  write_zip(path, members);
}

void write_npz(const std::string& path, const std::vector<Array>& arrays) {
  std::vector<StackedArray> whole;
  for (const Array& array : arrays) whole.push_back({array.spec, {array.data}});
  write_stacked_npz(path, whole);
}

}  // namespace cospipe

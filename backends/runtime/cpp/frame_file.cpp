#include "frame_file.h"

#include <map>

#include "errors.h"
#include "npz.h"

namespace cospipe {

namespace {

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

std::map<std::string, Array> read_arrays(const Manifest& manifest, const std::string& path) {
  if (ends_with(path, ".npz")) return read_npz(path);
  if (!ends_with(path, ".npy")) throw Error(path + ": inputs are .npy and .npz files");
  if (manifest.inputs.size() != 1) {
    throw Error(path + ": the network has " + std::to_string(manifest.inputs.size()) +
                " inputs; give an .npz file with all of them");
  }
  return {{manifest.inputs[0].name, read_npy(path)}};
}

// Everything that does not fit about the names, shapes and types of a frame. The same as runtime/frame.py.
std::vector<std::string> frame_problems(const Manifest& manifest, std::map<std::string, Array> arrays) {
  std::vector<std::string> missing, wrong;
  for (const TensorSpec& spec : manifest.inputs) {
    const auto found = arrays.find(spec.name);
    if (found == arrays.end()) {
      missing.push_back(spec.text() + " is missing");
      continue;
    }
    const TensorSpec& given = found->second.spec;
    if (given.shape != spec.shape || given.type != spec.type) {
      wrong.push_back(spec.name + " is " + shape_text(given.shape) + " " + name_of(given.type) + ", expected " +
                      spec.text());
    }
    arrays.erase(found);
  }
  std::vector<std::string> problems;
  for (const auto& [name, array] : arrays) problems.push_back(name + " is no input");
  problems.insert(problems.end(), missing.begin(), missing.end());
  problems.insert(problems.end(), wrong.begin(), wrong.end());
  return problems;
}

}  // namespace

bool is_frame_file(const std::string& name) {
  return !name.empty() && name[0] != '.' && (ends_with(name, ".npy") || ends_with(name, ".npz"));
}

Frame read_frame(const Manifest& manifest, const std::string& path) {
  const std::map<std::string, Array> arrays = read_arrays(manifest, path);
  std::string text;
  for (const std::string& problem : frame_problems(manifest, arrays)) text += (text.empty() ? "" : "; ") + problem;
  if (!text.empty()) throw Error(path + ": " + text);
  Frame frame;
  for (const TensorSpec& spec : manifest.inputs) frame.push_back(arrays.at(spec.name).data);
  return frame;
}

}  // namespace cospipe

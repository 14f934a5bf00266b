#include "bundle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <future>
#include <set>

#include "errors.h"
#include "file_descriptor.h"
#include "hashes.h"
#include "json.h"
#include "public_key.h"

namespace cospipe {

namespace {

constexpr const char* kManifestName = "manifest.json";
constexpr const char* kSignatureName = "manifest.sig";
constexpr uint64_t kMostManifestBytes = uint64_t{64} << 20;
constexpr size_t kBlockBytes = size_t{1} << 18;

bool is_retried(ssize_t result) { return result < 0 && errno == EINTR; }

std::string absolute(const std::string& folder) {
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0) throw UsageError("There is no bundle at '" + folder + "'.");
  if (!S_ISDIR(status.st_mode)) {
    throw UsageError(folder + " is not the directory of a bundle; a .zip must be unpacked first.");
  }
  char path[PATH_MAX];
  if (::realpath(folder.c_str(), path) == nullptr) {
    throw Error(folder + " cannot be read: " + std::strerror(errno) + ".");
  }
  return path;
}

FileDescriptor open_folder(const std::string& folder) {
  FileDescriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.is_open()) throw Error(folder + " cannot be read: " + std::strerror(errno) + ".");
  return opened;
}

// Opens a file of a directory; neither it nor a directory on the way may be a link. A pipe does not block.
FileDescriptor open_inside(const FileDescriptor& folder, const std::string& name) {
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return FileDescriptor(::openat(folder.get(), name.c_str(), kFlags));
  const FileDescriptor next(::openat(folder.get(), name.substr(0, slash).c_str(), kFlags | O_DIRECTORY));
  return next.is_open() ? open_inside(next, name.substr(slash + 1)) : FileDescriptor(-1);
}

// Why a file that was opened cannot be used; empty when it can.
std::string open_problem(const FileDescriptor& file, struct stat& status) {
  if (!file.is_open() && errno == ELOOP) return "is a symbolic link";
  if (!file.is_open() && (errno == ENOENT || errno == ENOTDIR)) return "is missing";
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) {
    return std::string("cannot be read: ") + std::strerror(errno);
  }
  return S_ISREG(status.st_mode) ? "" : "is not a file";
}

// A small file as a whole.
std::string read_file(const FileDescriptor& folder, const std::string& name, uint64_t most_bytes) {
  const FileDescriptor file = open_inside(folder, name);
  struct stat status {};
  const std::string problem = open_problem(file, status);
  if (!problem.empty()) throw Error(name + " " + problem);
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes > most_bytes) throw Error(name + " has " + std::to_string(bytes) + " bytes, which is too large");
  std::string text(bytes, '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = ::read(file.get(), &text[filled], text.size() - filled);
    if (is_retried(got)) continue;
    if (got <= 0) throw Error(name + " cannot be read whole");
    filled += static_cast<size_t>(got);
  }
  return text;
}

std::string read_manifest(const FileDescriptor& folder, const std::string& shown) {
  try {
    return read_file(folder, kManifestName, kMostManifestBytes);
  } catch (const Error& error) {
    throw Error(shown + " is not a bundle: its " + error.what() + ".");
  }
}

void check_signature(const FileDescriptor& folder, const std::string& shown, const std::string& manifest,
                     const std::string& public_key_file) {
  const Ed25519Key key = read_public_key(public_key_file);
  std::string bytes;
  try {
    bytes = read_file(folder, kSignatureName, kMostManifestBytes);
  } catch (const Error& error) {
    throw Error(shown + " is not signed, though a public key was given: " + error.what() + ".");
  }
  Ed25519Signature signature;
  if (bytes.size() != signature.size()) {
    throw Error(shown + "/" + kSignatureName + " has " + std::to_string(bytes.size()) + " bytes; a signature has 64.");
  }
  std::copy(bytes.begin(), bytes.end(), signature.begin());
  if (is_signed(manifest, signature, key)) return;
  throw Error(shown + " was not signed by the owner of " + public_key_file +
              ", or was altered since, and will not be run.");
}

// The SHA-256 of an open file; empty, with errno, when it cannot be read.
std::string digest_of(const FileDescriptor& file) {
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<char> block(kBlockBytes);
  Sha256 digest;
  while (true) {
    const ssize_t got = ::read(file.get(), block.data(), block.size());
    if (got == 0) return digest.hexadecimal();
    if (is_retried(got)) continue;
    if (got < 0) return "";
    digest.update(block.data(), static_cast<size_t>(got));
  }
}

// What is wrong with a file; empty when nothing is.
std::string file_problem(const FileDescriptor& folder, const std::string& name, const FileRecord& record) {
  const FileDescriptor file = open_inside(folder, name);
  struct stat status {};
  const std::string problem = open_problem(file, status);
  if (!problem.empty()) return name + " " + problem;
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes != record.bytes) {
    return name + " has " + std::to_string(bytes) + " bytes instead of " + std::to_string(record.bytes);
  }
  const std::string digest = digest_of(file);
  if (digest.empty()) return name + " cannot be read: " + std::strerror(errno);
  return digest == record.sha256 ? "" : name + " was altered (its SHA-256 differs)";
}

// Checks every file, the largest first, with two threads.
std::vector<std::string> file_problems(const FileDescriptor& folder, const std::map<std::string, FileRecord>& files) {
  std::vector<const std::pair<const std::string, FileRecord>*> order;
  for (const auto& file : files) order.push_back(&file);
  const auto is_larger = [](const auto* a, const auto* b) { return a->second.bytes > b->second.bytes; };
  std::stable_sort(order.begin(), order.end(), is_larger);
  std::vector<std::string> problems(order.size());
  std::atomic<size_t> next{0};
  const auto check = [&] {
    for (size_t i = next++; i < order.size(); i = next++) {
      problems[i] = file_problem(folder, order[i]->first, order[i]->second);
    }
  };
  std::future<void> second = std::async(std::launch::async, check);  // what it throws comes out of get()
  check();
  second.get();
  problems.erase(std::remove(problems.begin(), problems.end(), ""), problems.end());
  std::sort(problems.begin(), problems.end());
  return problems;
}

void check_held(const TensorFile& file, const std::string& name, const TensorSpec& spec, Mistakes& mistakes) {
  if (!file.holds(spec)) mistakes.add("", name + " does not hold " + spec.text());
}

void check_borders(const TensorFile& reference, const Manifest& manifest, Mistakes& mistakes) {
  std::set<std::string> seen;
  const auto check = [&](const std::vector<TensorSpec>& specs) {
    for (const TensorSpec& spec : specs) {
      if (seen.insert(spec.text()).second) check_held(reference, manifest.reference, spec, mistakes);
    }
  };
  check(manifest.inputs);
  check(manifest.outputs);
  for (const Stage& stage : manifest.stages) {
    check(stage.inputs);
    check(stage.outputs);
  }
}

void check_weights(const TensorFile& file, const Stage& stage, Mistakes& mistakes) {
  std::set<std::string> missing;
  for (const std::string& name : stage.weight_names) {
    if (file.header().entries.count(name) == 0) missing.insert(name);
  }
  for (const std::string& name : missing) mistakes.add("", stage.weights + " does not hold " + name);
  for (const StageBuild& build : stage.builds) {
    for (const WeightArgument& argument : build.weight_arguments) {
      const bool is_stored = argument.function.empty() && missing.count(argument.tensor.name) == 0;
      if (is_stored) check_held(file, stage.weights, argument.tensor, mistakes);
    }
  }
}

}  // namespace

Bundle open_bundle(const std::string& folder, const std::string& public_key_file) {
  Bundle bundle;
  bundle.folder = absolute(folder);
  const FileDescriptor opened = open_folder(bundle.folder);
  const std::string manifest = read_manifest(opened, folder);
  if (!public_key_file.empty()) check_signature(opened, folder, manifest, public_key_file);
  bundle.manifest = parse_manifest(manifest, folder + "/" + kManifestName);
  Mistakes damage;
  for (const std::string& problem : file_problems(opened, bundle.manifest.files)) damage.add("", problem);
  damage.raise(folder + " was damaged or altered and will not be run");
  Mistakes contradictions;
  check_borders(TensorFile(bundle.file(bundle.manifest.reference)), bundle.manifest, contradictions);
  for (const Stage& stage : bundle.manifest.stages) {
    bundle.weights.push_back(std::make_shared<const TensorFile>(bundle.file(stage.weights)));
    check_weights(*bundle.weights.back(), stage, contradictions);
  }
  contradictions.raise(folder + " contradicts itself and will not be run");
  return bundle;
}

}  // namespace cospipe

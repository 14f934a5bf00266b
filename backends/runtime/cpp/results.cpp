#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "errors.h"
#include "file_descriptor.h"
#include "frames.h"
#include "npz.h"
#include "scratch_file.h"

namespace cospipe {

namespace {

constexpr const char* kStandardOutput = "-";

class NoResults : public ResultSink {
 public:
  void add(uint64_t, const Frame&) override {}
  void finish() override {}
};

// Keeps the results as they are; they are never copied together.
class NpzResults : public ResultSink {
 public:
  NpzResults(const Manifest& manifest, std::string file) : file_(std::move(file)) {
    for (const TensorSpec& spec : manifest.outputs) outputs_.push_back({spec, {}});
  }

  void add(uint64_t, const Frame& result) override {
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i].pieces.push_back(result.at(i));
  }

  void finish() override {
    if (outputs_.empty() || outputs_[0].pieces.empty()) return;
    for (StackedArray& output : outputs_) {
      output.spec.shape.insert(output.spec.shape.begin(), static_cast<int64_t>(output.pieces.size()));
    }
    write_stacked_npz(file_, outputs_);
  }

 private:
  const std::string file_;
  std::vector<StackedArray> outputs_;
};

class RawResults : public ResultSink {
 public:
  RawResults(std::string name, FileDescriptor file) : name_(std::move(name)), file_(std::move(file)) {}

  void add(uint64_t, const Frame& result) override {
    for (const Data& output : result) {
      if (const int error = write_all(file_.get(), output.begin, output.bytes)) fail(error);
    }
  }

  void finish() override {}

 private:
  [[noreturn]] void fail(int error) const {
    const std::string reason = error == EPIPE ? "its reader went away" : std::strerror(error);
    throw Error("The raw results could not be written to " + name_ + ": " + reason + ".");
  }

  const std::string name_;
  const FileDescriptor file_;
};

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool is_directory(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace

std::unique_ptr<ResultSink> no_results() { return std::make_unique<NoResults>(); }

std::unique_ptr<ResultSink> npz_results(const Manifest& manifest, const std::string& file) {
  const std::string ending = ".npz";
  const bool is_npz = file.size() > ending.size() && file.substr(file.size() - ending.size()) == ending;
  if (!is_npz || is_directory(file)) {
    throw UsageError("Results are written as .npz; " + file + " is not such a file name.");
  }
  const std::string directory = directory_of(file);
  if (!is_directory(directory)) throw UsageError("The directory " + directory + " does not exist.");
  return std::make_unique<NpzResults>(manifest, file);
}

std::unique_ptr<ResultSink> raw_results(const std::string& file) {
  const bool is_standard = file == kStandardOutput;
  const std::string name = is_standard ? "standard output" : file;
  FileDescriptor opened(is_standard ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
                                    : ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!opened.is_open()) {
    throw Error("The raw results could not be written to " + name + ": " + std::strerror(errno) + ".");
  }
  return std::make_unique<RawResults>(name, std::move(opened));
}

}  // namespace cospipe

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>

#include "errors.h"
#include "file_descriptor.h"
#include "frame_file.h"
#include "frames.h"
#include "npz.h"
#include "scratch_file.h"

namespace cospipe {

namespace {

constexpr int kPollMs = 100;          // where the system does not tell of new files
constexpr int kPollIfToldMs = 1'000;  // network file systems do not tell of what other machines do

[[noreturn]] void fail(const std::string& folder, int error) {
  throw UsageError("The directory " + folder + " cannot be used: " + std::strerror(error) + ".");
}

FileDescriptor open_folder(const std::string& folder) {
  FileDescriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.is_open()) fail(folder, errno);
  return opened;
}

// All names in a directory, in their order.
std::set<std::string> list_folder(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> opened(::opendir(folder.c_str()), ::closedir);
  if (!opened) fail(folder, errno);
  std::set<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(opened.get())) names.insert(entry->d_name);
  if (errno != 0) fail(folder, errno);
  return names;
}

std::set<std::string> list_frames(const std::string& folder) {
  std::set<std::string> frames;
  for (const std::string& name : list_folder(folder)) {
    if (is_frame_file(name)) frames.insert(frames.end(), name);
  }
  return frames;
}

std::string result_name(const std::string& frame) { return frame.substr(0, frame.rfind('.')) + ".npz"; }

bool is_same(int one, int other) {
  struct stat first {}, second {};
  if (::fstat(one, &first) != 0 || ::fstat(other, &second) != 0) return false;
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// What a runner that was killed had not finished.
void remove_unfinished(const std::string& results) {
  const std::string begin = ".", end = ".npz.new";
  for (const std::string& name : list_folder(results)) {
    const bool is_long = name.size() > begin.size() + end.size();
    if (!is_long || name[0] != '.' || name.substr(name.size() - end.size()) != end) continue;
    const std::string path = results + "/" + name;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail(results, errno);
  }
}

// Wakes up when a file comes into a directory.
class FolderWatch {
 public:
  explicit FolderWatch(const std::string& folder) : events_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    constexpr uint32_t kNewFiles = IN_MOVED_TO | IN_CLOSE_WRITE;
    is_told_ = events_.is_open() && ::inotify_add_watch(events_.get(), folder.c_str(), kNewFiles) >= 0;
  }

  // Waits for a file since the last call, for the stop, or some time; what it returns for does not matter.
  void wait(const Stop& stop) const {
    pollfd waiting[] = {{stop.readable(), POLLIN, 0}, {is_told_ ? events_.get() : -1, POLLIN, 0}};
    ::poll(waiting, 2, is_told_ ? kPollIfToldMs : kPollMs);
    if (!is_told_) return;
    char events[4096];
    while (::read(events_.get(), events, sizeof events) > 0) continue;
  }

 private:
  const FileDescriptor events_;
  bool is_told_ = false;
};

}  // namespace

// The frames of a directory and what became of them. The source and the sink use it from two threads: only the names of
// frames that are inside the pipeline belong to both.
class Spool {
 public:
  Spool(const Manifest& manifest, std::string folder, std::string results, bool follow, const Stop& stop)
      : manifest_(manifest),
        folder_(std::move(folder)),
        results_(std::move(results)),
        stop_(stop),
        lock_(open_folder(results_)) {
    const FileDescriptor frames = open_folder(folder_);
    if (is_same(frames.get(), lock_.get())) {
      throw UsageError("Frames and results cannot be in the same directory, " + folder_ + ".");
    }
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      throw UsageError("Another cospipe-run writes its results into " + results_ + ".");
    }
    remove_unfinished(results_);
    if (follow) watch_ = std::make_unique<FolderWatch>(folder_);
    take_new();
  }

  std::optional<Frame> next() {
    while (!stop_.is_requested()) {
      if (!waiting_.empty()) return read_next();
      if (!watch_) return std::nullopt;
      watch_->wait(stop_);
      take_new();
    }
    return std::nullopt;
  }

  std::optional<uint64_t> count() const {
    return watch_ ? std::nullopt : std::optional<uint64_t>(waiting_.size());
  }

  void write(const Frame& result) {
    std::vector<Array> arrays;
    for (size_t i = 0; i < manifest_.outputs.size(); ++i) arrays.push_back({manifest_.outputs[i], result.at(i)});
    write_npz(results_ + "/" + result_name(oldest_inside()), arrays);
    const std::lock_guard<std::mutex> lock(mutex_);
    inside_.pop_front();
  }

 private:
  // Looks for frames that were not there before, and queues those that are not done.
  void take_new() {
    std::set<std::string> frames = list_frames(folder_);
    if (frames.empty() || *frames.rbegin() <= last_) return remember(std::move(frames));
    // Results before frames: whoever takes both away takes the frame first, so a frame that is still there and has no
    // result was not done. And frames once more: one that came while the directory was read may have been overlooked
    // though a later one was seen.
    const std::string newest = *frames.rbegin();
    const std::set<std::string> done = list_folder(results_);
    frames = list_frames(folder_);
    frames.erase(frames.upper_bound(newest), frames.end());
    for (auto name = frames.upper_bound(last_); name != frames.end(); ++name) {
      check_unique(*name, frames);
      if (done.count(result_name(*name)) == 0) waiting_.push_back(*name);
    }
    const std::string before = std::move(last_);
    last_ = newest;
    remember(std::move(frames), before);
  }

  void remember(std::set<std::string> frames) { remember(std::move(frames), last_); }

  // A frame may not come behind those that were there already: its result would be out of order.
  void remember(std::set<std::string> frames, const std::string& before) {
    for (auto name = frames.begin(); name != frames.upper_bound(before); ++name) {
      if (known_.count(*name) == 1) continue;
      throw Error("The frame " + folder_ + "/" + *name + " came after " + before +
                  ", though its name comes before that; give new frames names that grow, and start again.");
    }
    known_ = std::move(frames);
  }

  void check_unique(const std::string& name, const std::set<std::string>& frames) const {
    const std::string other = name.substr(0, name.rfind('.')) + ".npy";
    if (other == name || frames.count(other) == 0) return;
    throw Error("The frames " + folder_ + "/" + other + " and " + name + " would have the same result; rename one.");
  }

  Frame read_next() {
    const std::string name = waiting_.front();
    Frame frame;
    try {
      frame = read_frame(manifest_, folder_ + "/" + name);
    } catch (const Error& error) {
      throw Error("A frame cannot be used: " + std::string(error.what()) + ". Take it away and start again.");
    }
    waiting_.pop_front();
    const std::lock_guard<std::mutex> lock(mutex_);
    inside_.push_back(name);
    return frame;
  }

  std::string oldest_inside() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return inside_.at(0);
  }

  const Manifest& manifest_;
  const std::string folder_, results_;
  const Stop& stop_;
  const FileDescriptor lock_;  // of this runner, as long as it lives
  std::unique_ptr<FolderWatch> watch_;
  std::set<std::string> known_;      // the frames in the directory, as it was last read
  std::string last_;                 // the greatest name so far
  std::deque<std::string> waiting_;  // not read yet
  mutable std::mutex mutex_;
  std::deque<std::string> inside_;  // read, but without a result yet
};

namespace {

class SpoolFrames : public FrameSource {
 public:
  explicit SpoolFrames(std::shared_ptr<Spool> spool) : spool_(std::move(spool)) {}
  std::optional<Frame> next() override { return spool_->next(); }
  std::optional<uint64_t> count() const override { return spool_->count(); }

 private:
  const std::shared_ptr<Spool> spool_;
};

class SpoolResults : public ResultSink {
 public:
  explicit SpoolResults(std::shared_ptr<Spool> spool) : spool_(std::move(spool)) {}
  void add(uint64_t, const Frame& result) override { spool_->write(result); }
  void finish() override {}

 private:
  const std::shared_ptr<Spool> spool_;
};

}  // namespace

std::shared_ptr<Spool> open_spool(const Manifest& manifest, const std::string& folder, const std::string& results,
                                  bool follow, const Stop& stop) {
  return std::make_shared<Spool>(manifest, folder, results, follow, stop);
}

std::unique_ptr<FrameSource> spool_frames(std::shared_ptr<Spool> spool) {
  return std::make_unique<SpoolFrames>(std::move(spool));
}

std::unique_ptr<ResultSink> spool_results(std::shared_ptr<Spool> spool) {
  return std::make_unique<SpoolResults>(std::move(spool));
}

}  // namespace cospipe

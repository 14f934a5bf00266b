// Where frames come from and where results go.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"
#include "tensor.h"

namespace cospipe {

// Tells everything that waits for more input that no more is wanted; may be asked for from any thread.
class Stop {
 public:
  Stop();
  ~Stop();
  Stop(const Stop&) = delete;
  Stop& operator=(const Stop&) = delete;

  void request();
  bool is_requested() const { return requested_.load(); }
  int readable() const { return pipe_[0]; }  // becomes readable when it is requested: for poll()

 private:
  std::atomic<bool> requested_{false};
  int pipe_[2];
};

// Frames, one after the other; used by one thread.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  // Waits for the next frame; nothing at the end, or when no more is wanted. Throws Error when it cannot be read or
  // does not fit the network.
  virtual std::optional<Frame> next() = 0;
  // How many there will be, for the progress; nothing when nobody knows.
  virtual std::optional<uint64_t> count() const { return std::nullopt; }
};

// Results in the order of the frames, `number` counts from 0; used by one thread.
class ResultSink {
 public:
  virtual ~ResultSink() = default;
  virtual void add(uint64_t number, const Frame& result) = 0;
  // All results are there, or a run was interrupted and those that were inside have left.
  virtual void finish() = 0;
};

// Normally distributed numbers (zeros for integers), the same for every run; `count` 0 is without end.
std::unique_ptr<FrameSource> synthetic_frames(const Manifest& manifest, uint64_t count, const Stop& stop);

// One frame from each .npy (networks with one input) or .npz file (arrays by input name), `repeat` times over. All are
// read and checked first. Throws UsageError that lists every file that cannot be used.
std::unique_ptr<FrameSource> file_frames(const Manifest& manifest, const std::vector<std::string>& files,
                                         uint64_t repeat, const Stop& stop);

// Raw bytes, the inputs of a frame one behind the other, from a file or "-" for standard input. A regular file is
// mapped and handed out without copying where it lies aligned. Ends at the end of the file; a frame that is cut off is
// an Error.
std::unique_ptr<FrameSource> raw_frames(const Manifest& manifest, const std::string& file, const Stop& stop);

// Files of a directory in the order of their names (.npy, .npz; others and those beginning with a dot are left alone).
// A frame whose result NAME.npz lies in `results` is done and is skipped, so that a runner that was killed goes on
// where it was. With `follow` new files are waited for until the stop is requested; names must then grow.
class Spool;
std::shared_ptr<Spool> open_spool(const Manifest& manifest, const std::string& folder, const std::string& results,
                                  bool follow, const Stop& stop);
std::unique_ptr<FrameSource> spool_frames(std::shared_ptr<Spool> spool);
// Writes each result under another name and renames it.
std::unique_ptr<ResultSink> spool_results(std::shared_ptr<Spool> spool);

// The first `count` frames of a source.
std::unique_ptr<FrameSource> first_frames(std::unique_ptr<FrameSource> source, uint64_t count);

// Keeps nothing.
std::unique_ptr<ResultSink> no_results();
// Each output stacked over the frames, as one .npz that is written whole at the end, or not at all.
std::unique_ptr<ResultSink> npz_results(const Manifest& manifest, const std::string& file);
// The outputs of a result one behind the other, as they come; "-" is standard output. A reader that went away is an
// Error, not a signal.
std::unique_ptr<ResultSink> raw_results(const std::string& file);

}  // namespace cospipe

// cospipe-run: runs a bundle on a board that has neither Python nor a compiler.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <mutex>
#include <new>
#include <set>
#include <system_error>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "bundle.h"
#include "errors.h"
#include "frames.h"
#include "options.h"
#include "pipeline.h"
#include "scratch_file.h"
#include "signals.h"
#include "verify.h"

#ifndef COSPIPE_VERSION
#define COSPIPE_VERSION "unknown"
#endif

namespace cospipe {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kGood = 0, kFailure = 1, kWrongUsage = 2, kStatusOfSignals = 128;
constexpr uint64_t kSyntheticFrames = 50;

const char* own_architecture() {
#if defined(__aarch64__)
  return "aarch64";
#elif defined(__x86_64__)
  return "x86_64";
#else
#error "cospipe-run is for AArch64 and x86-64"
#endif
}

// Bundles may hold any name: what a terminal would take for a command is not sent to it.
std::string harmless(std::string text) {
  const auto is_control = [](unsigned char byte) { return (byte < 0x20 && byte != '\n') || byte == 0x7f; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return text;
}

void say(const std::string& text) { std::cerr << "cospipe-run: " << harmless(text) << "\n" << std::flush; }

void check_runs_here(const Bundle& bundle) {
  const std::string& made_for = bundle.manifest.architecture;
  if (made_for == own_architecture()) return;
  throw Error("This bundle was compiled for " + made_for + ", this program for " + own_architecture() +
              "; run it with the program of its own architecture.");
}

// Idle threads of TVM's pools spin until their next kernel comes: where several share a core, that is another one's time.
void keep_pools_from_spinning(const Manifest& manifest) {
  for (const std::vector<Placement>& stage : place(manifest, available_cpus()))
    for (const Placement& placement : stage)
      if (placement.kind == Placement::Kind::kShared) setenv("TVM_THREAD_POOL_SPIN_COUNT", "0", 0);
}

std::shared_ptr<const TvmRuntime> load_runtime(const Options& options, const Bundle& bundle) {
  std::vector<std::string> libraries;
  if (!options.runtime.empty())
    libraries = {options.runtime + "/libtvm_ffi.so", options.runtime + "/libtvm_runtime.so"};
  else
    for (const std::string& library : bundle.manifest.runner.libraries) libraries.push_back(bundle.file(library));
  if (libraries.empty())
    throw Error("This bundle brings no TVM runtime; compile it with --runner, or name a directory with libtvm_ffi.so"
                " and libtvm_runtime.so by --runtime.");
  keep_pools_from_spinning(bundle.manifest);
  return std::make_shared<const TvmRuntime>(libraries);
}

// The frames and results of a run; a spool is both.
struct Ends {
  std::unique_ptr<FrameSource> source;
  std::unique_ptr<ResultSink> sink;
};

std::unique_ptr<FrameSource> open_source(const Options& options, const Manifest& manifest, const Stop& stop) {
  if (!options.input_files.empty()) return file_frames(manifest, options.input_files, options.repeat, stop);
  if (!options.raw_input.empty()) return raw_frames(manifest, options.raw_input, stop);
  return synthetic_frames(manifest, options.frames.value_or(kSyntheticFrames), stop);
}

std::unique_ptr<ResultSink> open_sink(const Options& options, const Manifest& manifest) {
  if (!options.output.empty()) return npz_results(manifest, options.output);
  if (!options.raw_output.empty()) return raw_results(options.raw_output);
  return no_results();
}

Ends open_ends(const Options& options, const Manifest& manifest, const Stop& stop) {
  Ends ends;
  if (!options.spool.empty()) {
    const std::shared_ptr<Spool> spool =
        open_spool(manifest, options.spool, options.results, options.follow, stop);
    ends = {spool_frames(spool), spool_results(spool)};
  } else {
    ends = {open_source(options, manifest, stop), open_sink(options, manifest)};
  }
  const bool is_synthetic = options.input_files.empty() && options.raw_input.empty() && options.spool.empty();
  if (options.frames && !is_synthetic) ends.source = first_frames(std::move(ends.source), *options.frames);
  return ends;
}

// Shows on a terminal how far a run is.
class Progress {
 public:
  explicit Progress(std::optional<uint64_t> total) : total_(total), is_shown_(isatty(STDERR_FILENO) == 1) {}

  void show(uint64_t done) {
    if (!is_shown_ || done == 0) return;
    std::fprintf(stderr, "\rframe %llu", static_cast<unsigned long long>(done));
    if (total_) std::fprintf(stderr, " of %llu", static_cast<unsigned long long>(*total_));
    std::fflush(stderr);
    has_written_ = true;
  }
  ~Progress() { end(); }
  void end() {
    if (has_written_) std::fputs("\r\x1b[K", stderr);
    has_written_ = false;
  }

 private:
  const std::optional<uint64_t> total_;
  const bool is_shown_;
  bool has_written_ = false;
};

// Ends answering signals before what the answers use is gone.
struct EndOfAnswers {
  Signals& signals;
  ~EndOfAnswers() { signals.end(); }
};

void swap_on_hang_up(Pipeline& pipeline, const std::string& adapter) {
  if (adapter.empty()) return say("SIGHUP does nothing without --adapter.");
  try {
    pipeline.swap_adapter(adapter);
    say("took " + adapter + " again.");
  } catch (const std::exception& error) {
    say(std::string(error.what()) + " The run goes on with the adapter it had.");
  }
}

std::string text_of(const Json& values) { return values.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

void print(const Json& values) { std::cout << text_of(values); }

// Says each warning once, from whichever thread: as soon as it is known, or at the end.
class Warnings {
 public:
  void say_once(const std::string& warning) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (said_.insert(warning).second) say(warning);
  }

 private:
  std::mutex mutex_;
  std::set<std::string> said_;
};

void write_statistics(const std::string& path, const std::string& text) {
  ScratchFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

Json named(const Options& options, const Manifest& manifest) {
  const std::string& adapter = options.pipeline.adapter;
  return {{"bundle", options.bundle},
          {"model", manifest.model},
          {"adapter", adapter.empty() ? Json(nullptr) : Json(adapter)}};
}

int run(const Options& options, Signals& signals, const std::shared_ptr<const Bundle>& bundle) {
  const std::shared_ptr<const TvmRuntime> runtime = load_runtime(options, *bundle);
  Stop stop;
  Ends ends = open_ends(options, bundle->manifest, stop);
  Warnings warnings;
  PipelineOptions pipeline_options = options.pipeline;
  pipeline_options.warn = [&](const std::string& warning) { warnings.say_once(warning); };
  Pipeline pipeline(bundle, runtime, pipeline_options);
  Progress progress(ends.source->count());
  signals.answer(
      stop, [&] { swap_on_hang_up(pipeline, options.pipeline.adapter); },
      [&] { progress.show(pipeline.frames_handed_out()); });
  const EndOfAnswers end_of_answers{signals};
  pipeline.run(*ends.source, *ends.sink, options.swaps, stop);
  ends.sink->finish();
  signals.end();
  progress.end();
  RunStatistics statistics = pipeline.statistics();
  if (signals.interrupted_by() != 0) statistics.interrupted_by = signals.interrupted_by() == SIGINT ? "SIGINT" : "SIGTERM";
  Json values = named(options, bundle->manifest);
  values.update(summary(statistics, bundle->manifest, pipeline.placements()));
  for (const std::string& warning : statistics.warnings) warnings.say_once(warning);
  if (options.as_json)
    print(values);
  else
    (options.raw_output == "-" ? std::cerr : std::cout) << table(values);
  if (!options.statistics.empty()) write_statistics(options.statistics, text_of(values));
  return signals.interrupted_by() != 0 ? kStatusOfSignals + signals.interrupted_by() : kGood;
}

int verify_bundle(const Options& options, const std::shared_ptr<const Bundle>& bundle) {
  // Each part runs in a thread of its own, whose end would wait for a pool that spins: minutes on a busy machine.
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "0", 0);
  const std::vector<Check> checks =
      verify(bundle, load_runtime(options, *bundle), options.pipeline, options.reference);
  const Json values = summary(checks);
  if (options.as_json)
    print(values);
  else
    std::cout << table(checks);
  if (values["passed"].get<bool>()) return kGood;
  say("The bundle computes other numbers than PyTorch.");
  return kFailure;
}

int check_only(const Options& options, const Bundle& bundle) {
  uint64_t bytes = 0;
  for (const auto& [name, record] : bundle.manifest.files) bytes += record.bytes;
  const size_t files = bundle.manifest.files.size();
  if (options.as_json)
    print({{"bundle", options.bundle}, {"files", files}, {"bytes", bytes}, {"signed", !options.public_key.empty()}});
  else
    std::cout << options.bundle << ": " << files << " files, " << bytes << " bytes, unaltered"
              << (options.public_key.empty() ? "" : " and signed") << "\n";
  return kGood;
}

int act(const Options& options) {
  Signals signals;
  if (options.only_help) return std::cout << kHelp, kGood;
  if (options.only_version) return std::cout << "cospipe-run " COSPIPE_VERSION "\n", kGood;
  const auto bundle = std::make_shared<const Bundle>(open_bundle(options.bundle, options.public_key));
  if (options.only_check) return check_only(options, *bundle);
  check_runs_here(*bundle);
  return options.only_verify ? verify_bundle(options, bundle) : run(options, signals, bundle);
}

// Says what went wrong, also to programs that read the statistics.
int tell(const std::string& message, const char* type, int status, bool as_json) {
  say(message);
  if (as_json) print({{"error", {{"type", type}, {"message", message}}}});
  return status;
}

int guarded_main(int count, char** arguments) {
  bool as_json = false;
  try {
    for (int i = 1; i < count; ++i) as_json = as_json || std::string(arguments[i]) == "--json";
    return act(parse_options(count, arguments));
  } catch (const UsageError& error) {
    return tell(error.what(), "UsageError", kWrongUsage, as_json);
  } catch (const StallError& error) {
    return tell(error.what(), "StallError", kFailure, as_json);
  } catch (const std::system_error& error) {
    const std::string reason = std::string("A thread could not be started: ") + error.what();
    return tell(reason + "; there is too little memory, or too many processes run.", "Error", kFailure, as_json);
  } catch (const std::bad_alloc&) {
    return tell("There is no memory left.", "MemoryError", kFailure, as_json);
  } catch (const std::exception& error) {
    return tell(error.what(), "Error", kFailure, as_json);
  }
}

}  // namespace
}  // namespace cospipe

int main(int count, char** arguments) {
  int status = cospipe::guarded_main(count, arguments);
  std::cout.flush();
  if (!std::cout) {
    cospipe::say("Standard output cannot be written to: it is full or closed.");
    if (status == 0) status = 1;
  }
  std::fflush(nullptr);
  // TVM's pools never end, nor does a stage that is stuck: leave without waiting for their threads.
  std::_Exit(status);
}

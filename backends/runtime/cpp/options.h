// The command line of cospipe-run.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pipeline.h"

namespace cospipe {

struct Options {
  std::string bundle;  // a directory
  std::vector<std::string> input_files;
  uint64_t repeat = 1;
  std::string raw_input;  // a file, or "-" for standard input
  std::string spool, results;
  bool follow = false;
  std::optional<uint64_t> frames;
  std::string output;      // .npz
  std::string raw_output;  // a file, or "-" for standard output
  bool as_json = false;
  std::string statistics;  // a file for them, as JSON
  std::map<uint64_t, std::string> swaps;  // adapters by the first frame that meets them
  std::string runtime;                    // directory with libtvm_ffi.so and libtvm_runtime.so
  std::string public_key;
  std::string reference;
  bool only_check = false, only_verify = false, only_help = false, only_version = false;
  PipelineOptions pipeline;
};

extern const char* const kHelp;

// Reads the command line. Throws UsageError that lists everything that makes no sense.
Options parse_options(int count, char** arguments);

}  // namespace cospipe

// The manifest of a bundle: what the files are, and what they were made for. The same as cospipe/ir/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tensor.h"

namespace cospipe {

constexpr int kFormatVersion = 4;

// A tensor that a stage's `main` takes: a stored weight as it is (no function), or what the library prepares from some.
struct WeightArgument {
  TensorSpec tensor;
  std::string function;
  std::vector<std::string> weights;
};

// Room for an adapter on a weight: the stored weights that hold its coefficients and their places.
struct AdapterSlot {
  std::string weight, coefficients, places;
};

// A stage compiled for one type of core and number of threads.
struct StageBuild {
  std::string library;
  std::string core_type;
  int threads = 1;
  bool shares_by_speed = false;
  std::vector<WeightArgument> weight_arguments;
};

// One copy of a stage on cores of its own. `configuration` is for people: "big:4".
struct Replica {
  size_t build = 0;
  std::vector<int> cpu_ids;
  std::string configuration;
  double predicted_us = 0;  // computing and taking over
};

struct Stage {
  std::string name;
  std::string weights;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<std::string> weight_names;
  std::vector<AdapterSlot> adapter_slots;
  std::vector<std::string> replaceable;
  std::vector<StageBuild> builds;
  std::vector<Replica> replicas;
  std::string configuration;       // "big:2", or "4x big:1, 2x little:2"
  double predicted_us = 0;         // longest time a replica is busy for one frame
  double predicted_period_us = 0;  // time between two results of all replicas together
};

struct FileRecord {
  uint64_t bytes = 0;
  std::string sha256;
};

// What the board directory brings along; empty where the bundle was made without --runner.
struct RunnerFiles {
  std::string program;
  std::vector<std::string> libraries;  // libtvm_ffi.so before libtvm_runtime.so, which needs it
};

struct Manifest {
  std::string cospipe_version, tvm_version, model;
  std::string architecture;      // "aarch64" or "x86_64"
  std::string soc_architecture;  // of the planned chip; where it differs core ids mean nothing
  std::string soc;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<Stage> stages;
  std::string reference;
  double relative_tolerance = 0;
  RunnerFiles runner;
  std::map<std::string, FileRecord> files;
};

// Reads a manifest; `origin` names it in errors. Throws Error, with every mistake, when it is not of the expected form.
Manifest parse_manifest(std::string_view text, const std::string& origin);

}  // namespace cospipe

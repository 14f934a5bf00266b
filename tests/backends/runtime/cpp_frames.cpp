// Does what the command line says with the C++ code for frames, placement and the machine monitor, and prints the
// outcome as one line of JSON; an error is printed, too, so that nothing but a crash makes this program fail.
//
//   cpp_frames npy FILE | npz FILE | rewrite NPZ NPZ
//   cpp_frames copy PLAN SOURCE SINK     hands frames through: the network of the plan puts out what it takes
//     SOURCE: files REPEAT FILE... | raw FILE | synthetic COUNT | first COUNT SOURCE
//     SINK:   --hex | --npz FILE | --raw FILE
//   cpp_frames spool PLAN FOLDER RESULTS FOLLOW MOST     FOLLOW: 0 or 1; stops after MOST frames
//   cpp_frames place PLAN CPUS SYS | available SYS
//   cpp_frames monitor SYS CPUS SAMPLES [CPUS_OF_THREAD]   reads a line from standard input before each sample
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "errors.h"
#include "frames.h"
#include "machine_monitor.h"
#include "npz.h"
#include "placement.h"

namespace cospipe {

using Json = nlohmann::ordered_json;
using Arguments = std::vector<std::string>;

static std::string hexadecimal(const Data& data) {
  std::string text;
  const auto* bytes = static_cast<const unsigned char*>(data.begin);
  for (uint64_t i = 0; i < data.bytes; ++i) {
    text += "0123456789abcdef"[bytes[i] >> 4];
    text += "0123456789abcdef"[bytes[i] & 15];
  }
  return text;
}

static Json json_of(const Array& array) {
  return {{"dtype", name_of(array.spec.type)}, {"shape", array.spec.shape}, {"data", hexadecimal(array.data)}};
}

static Json json_of(const std::map<std::string, Array>& arrays) {
  Json object = Json::object();
  for (const auto& [name, array] : arrays) object[name] = json_of(array);
  return object;
}

static Manifest read_plan(const std::string& path) {
  std::ifstream file(path);
  const Json plan = Json::parse(file);
  Manifest manifest;
  manifest.architecture = "x86_64";
  manifest.soc_architecture = plan.value("fits", true) ? "x86_64" : "aarch64";
  manifest.soc = plan.value("soc", "chip");
  for (const Json& spec : plan.value("inputs", Json::array())) {
    manifest.inputs.push_back({spec[0], spec[1], *element_type(spec[2].get<std::string>())});
  }
  manifest.outputs = manifest.inputs;
  for (const Json& replicas : plan.value("stages", Json::array())) {
    Stage& stage = manifest.stages.emplace_back();
    for (const Json& cpus : replicas) stage.replicas.emplace_back().cpu_ids = cpus.get<std::vector<int>>();
  }
  return manifest;
}

static std::unique_ptr<FrameSource> open_source(const Manifest& manifest, const Arguments& words, size_t at,
                                                const Stop& stop) {
  const std::string& kind = words.at(at);
  if (kind == "raw") return raw_frames(manifest, words.at(at + 1), stop);
  if (kind == "synthetic") return synthetic_frames(manifest, std::stoull(words.at(at + 1)), stop);
  if (kind == "first") return first_frames(open_source(manifest, words, at + 2, stop), std::stoull(words.at(at + 1)));
  Arguments files;
  for (size_t i = at + 2; words.at(i).substr(0, 2) != "--"; ++i) files.push_back(words[i]);
  return file_frames(manifest, files, std::stoull(words.at(at + 1)), stop);
}

class HexResults : public ResultSink {
 public:
  explicit HexResults(Json& frames) : frames_(frames) {}
  void add(uint64_t, const Frame& result) override {
    Json frame = Json::array();
    for (const Data& output : result) frame.push_back(hexadecimal(output));
    frames_.push_back(frame);
  }
  void finish() override {}

 private:
  Json& frames_;
};

static std::unique_ptr<ResultSink> open_sink(const Manifest& manifest, const Arguments& words, Json& frames) {
  const std::string& last = words.back();
  if (last == "--hex") return std::make_unique<HexResults>(frames);
  if (words.at(words.size() - 2) == "--npz") return npz_results(manifest, last);
  return raw_results(last);
}

static Json copy(const Arguments& words) {
  const Manifest manifest = read_plan(words.at(1));
  Stop stop;
  Json frames = Json::array();
  const auto source = open_source(manifest, words, 2, stop);
  const auto sink = open_sink(manifest, words, frames);
  const auto count = source->count();
  uint64_t number = 0;
  while (const auto frame = source->next()) sink->add(number++, *frame);
  sink->finish();
  return {{"frames", frames}, {"number", number}, {"count", count ? Json(*count) : Json(nullptr)}};
}

static Json run_spool(const Arguments& words) {
  const Manifest manifest = read_plan(words.at(1));
  Stop stop;
  const auto spool = open_spool(manifest, words.at(2), words.at(3), words.at(4) == "1", stop);
  const auto source = spool_frames(spool);
  const auto sink = spool_results(spool);
  std::cerr << "ready" << std::endl;
  uint64_t number = 0;
  const uint64_t most = std::stoull(words.at(5));
  while (number < most) {
    const auto frame = source->next();
    if (!frame) break;
    sink->add(number++, *frame);
  }
  if (words.at(4) != "1") return number;
  // the stop ends the wait for more
  std::thread stopping([&stop] { stop.request(); });
  if (number == most && source->next()) number += 1;
  stopping.join();
  return number;
}

static std::vector<int> cpus_of(const std::string& text) { return Json::parse(text).get<std::vector<int>>(); }

static Json run_place(const Arguments& words) {
  const Manifest manifest = read_plan(words.at(1));
  const std::vector<int> cpus = cpus_of(words.at(2));
  const auto placed = place(manifest, cpus);
  Json stages = Json::array();
  for (const auto& replicas : placed) {
    Json stage = Json::array();
    for (const Placement& replica : replicas) {
      stage.push_back({replica.cpu_ids, replica.threads, name_of(replica.kind)});
    }
    stages.push_back(stage);
  }
  return {{"placed", stages}, {"warnings", placement_warnings(manifest, placed, cpus, words.at(3))}};
}

static Json run_monitor(const Arguments& words) {
  MachineMonitor monitor(cpus_of(words.at(2)), words.at(1));
  std::vector<PinnedThread> threads;
  const auto thread = static_cast<pid_t>(::syscall(SYS_gettid));
  if (words.size() > 4) threads.push_back({"stage0 (big:1)", thread, cpus_of(words[4])});
  std::string line;
  for (int i = std::stoi(words.at(3)); i > 0; --i) {
    std::cerr << "ready" << std::endl;
    std::getline(std::cin, line);
    monitor.sample(threads);
  }
  Json clocks = Json::object();
  for (const auto& [cpu, range] : monitor.clocks()) {
    clocks[std::to_string(cpu)] = {range.lowest_mhz, range.median_mhz, range.highest_mhz, range.nominal_mhz};
  }
  return {{"clocks", clocks}, {"warnings", monitor.warnings()}, {"lost", monitor.lost_cores()}};
}

static Json act(const Arguments& words) {
  const std::string& kind = words.at(0);
  if (kind == "npy") return json_of(read_npy(words.at(1)));
  if (kind == "npz") return json_of(read_npz(words.at(1)));
  if (kind == "copy") return copy(words);
  if (kind == "spool") return run_spool(words);
  if (kind == "place") return run_place(words);
  if (kind == "available") return available_cpus(words.at(1));
  if (kind == "monitor") return run_monitor(words);
  std::vector<Array> arrays;
  for (const auto& [name, array] : read_npz(words.at(1))) arrays.push_back(array);
  write_npz(words.at(2), arrays);
  return nullptr;
}

}  // namespace cospipe

int main(int count, char** arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // as cospipe-run has it
  cospipe::Json answer;
  try {
    answer["value"] = cospipe::act({arguments + 1, arguments + count});
  } catch (const cospipe::Error& error) {
    answer["error"] = error.what();
    answer["is_usage"] = dynamic_cast<const cospipe::UsageError*>(&error) != nullptr;
  }
  std::cout << answer.dump(-1, ' ', true, cospipe::Json::error_handler_t::replace) << std::endl;
  return 0;
}

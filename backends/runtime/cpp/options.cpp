#include "options.h"

#include <getopt.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "errors.h"

namespace cospipe {

const char* const kHelp = R"(Usage: cospipe-run [BUNDLE] [options]

Runs a pipeline that cospipe compiled, one stage a cluster of cores. BUNDLE is its directory, by default the one that
this program lies in.

Input (by default synthetic frames):
  -i, --input FILE         .npy (networks with one input) or .npz (arrays by input name); a frame each, repeatable
      --repeat N           run these files N times over
      --raw FILE           raw bytes, the inputs of a frame one behind the other; - is standard input
      --spool DIR          .npy and .npz files in the order of their names; needs --results
      --follow             with --spool: wait for further files until the program is ended
      --frames N           number of synthetic frames (50, 0 is without end), or: the first N of the input

Output:
  -o, --output FILE.npz    results of all frames
      --raw-output FILE    raw bytes of each result as it comes; - is standard output
      --results DIR        with --spool: one .npz a frame; frames that have one there are done and left out
      --json               statistics as JSON on standard output
      --statistics FILE    statistics as JSON in a file

Adapters:
      --adapter FILE       an adapter to fold into the weights when they are loaded
      --swap-adapter N=FILE  another one from frame N on, counted from 0; none is what the bundle was compiled with
                           SIGHUP reads the file of --adapter again and gives it to every frame from then on

Running:
      --queue-depth N      frames that may wait in front of each stage (1)
      --strict             refuse to run when cores of the plan are missing, end when they get lost
      --fail-on-nan        a NaN that a stage puts out is an error
      --stall-timeout S    seconds that a stage may take for one frame (60); 0 is no limit
      --runtime DIR        libtvm_ffi.so and libtvm_runtime.so from there instead of the bundle

Checking:
      --public-key FILE    refuse a bundle that is not signed with the private key to this one (Ed25519, PEM)
      --check              check the files of the bundle, run nothing
      --verify             compare every stage, and the whole, with what PyTorch computed for one frame
      --reference FILE     with --verify: other values than the bundle's own, as safetensors

  -h, --help, --version

Ends with 0 when all is well, 1 for an error, 2 for wrong usage; SIGINT and SIGTERM let the frames that are inside
finish, print the statistics and end with 130 and 143. A second one ends at once.

Examples:
  ./cospipe-run
  ./cospipe-run -i cat.npy -o results.npz
  camera | ./cospipe-run --raw - --raw-output - | display
  cospipe-run /srv/net --public-key /etc/cospipe/key.pem --spool /var/spool/net/in --results /var/spool/net/out --follow
)";

namespace {

enum Flag {
  kRepeat = 256,
  kRaw,
  kSpool,
  kFollow,
  kFrames,
  kRawOutput,
  kResults,
  kJson,
  kStatistics,
  kAdapter,
  kSwapAdapter,
  kQueueDepth,
  kStrict,
  kFailOnNan,
  kStallTimeout,
  kRuntime,
  kPublicKey,
  kCheck,
  kVerify,
  kReference,
  kVersion
};

const option kFlags[] = {
    {"input", required_argument, nullptr, 'i'},
    {"repeat", required_argument, nullptr, kRepeat},
    {"raw", required_argument, nullptr, kRaw},
    {"spool", required_argument, nullptr, kSpool},
    {"follow", no_argument, nullptr, kFollow},
    {"frames", required_argument, nullptr, kFrames},
    {"output", required_argument, nullptr, 'o'},
    {"raw-output", required_argument, nullptr, kRawOutput},
    {"results", required_argument, nullptr, kResults},
    {"json", no_argument, nullptr, kJson},
    {"statistics", required_argument, nullptr, kStatistics},
    {"adapter", required_argument, nullptr, kAdapter},
    {"swap-adapter", required_argument, nullptr, kSwapAdapter},
    {"queue-depth", required_argument, nullptr, kQueueDepth},
    {"strict", no_argument, nullptr, kStrict},
    {"fail-on-nan", no_argument, nullptr, kFailOnNan},
    {"stall-timeout", required_argument, nullptr, kStallTimeout},
    {"runtime", required_argument, nullptr, kRuntime},
    {"public-key", required_argument, nullptr, kPublicKey},
    {"check", no_argument, nullptr, kCheck},
    {"verify", no_argument, nullptr, kVerify},
    {"reference", required_argument, nullptr, kReference},
    {"help", no_argument, nullptr, 'h'},
    {"version", no_argument, nullptr, kVersion},
    {nullptr, 0, nullptr, 0},
};

constexpr uint64_t kMostQueueDepth = 1024;

// A number of decimal digits alone; nothing for anything else.
std::optional<uint64_t> whole_number(const std::string& text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  errno = 0;
  const uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
  if (errno != 0) return std::nullopt;
  return value;
}

std::optional<double> seconds(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value) || value < 0) return std::nullopt;
  return value;
}

uint64_t number_of(const std::string& flag, const char* text, uint64_t least, std::vector<std::string>& problems) {
  const std::optional<uint64_t> value = whole_number(text);
  if (value && *value >= least) return *value;
  problems.push_back(flag + " takes a whole number from " + std::to_string(least) + ", not '" + text + "'");
  return least;
}

void add_swap(const std::string& text, Options& options, std::vector<std::string>& problems) {
  const size_t equals = text.find('=');
  const std::optional<uint64_t> frame = whole_number(text.substr(0, equals));
  if (equals == std::string::npos || !frame || equals + 1 == text.size()) {
    problems.push_back("--swap-adapter takes FRAME=FILE like 100=cats.safetensors, not '" + text + "'");
    return;
  }
  if (!options.swaps.emplace(*frame, text.substr(equals + 1)).second)
    problems.push_back("--swap-adapter names frame " + std::to_string(*frame) + " twice");
}

void set_flag(int flag, const char* value, Options& options, std::vector<std::string>& problems) {
  switch (flag) {
    case 'i':
      return options.input_files.push_back(value);
    case kRepeat:
      options.repeat = number_of("--repeat", value, 1, problems);
      return;
    case kRaw:
      options.raw_input = value;
      return;
    case kSpool:
      options.spool = value;
      return;
    case kFollow:
      options.follow = true;
      return;
    case kFrames:
      options.frames = number_of("--frames", value, 0, problems);
      return;
    case 'o':
      options.output = value;
      return;
    case kRawOutput:
      options.raw_output = value;
      return;
    case kResults:
      options.results = value;
      return;
    case kJson:
      options.as_json = true;
      return;
    case kStatistics:
      options.statistics = value;
      return;
    case kAdapter:
      options.pipeline.adapter = value;
      return;
    case kSwapAdapter:
      return add_swap(value, options, problems);
    case kQueueDepth:
      options.pipeline.queue_depth = number_of("--queue-depth", value, 1, problems);
      if (options.pipeline.queue_depth > kMostQueueDepth)
        problems.push_back("--queue-depth is at most " + std::to_string(kMostQueueDepth));
      return;
    case kStrict:
      options.pipeline.strict = true;
      return;
    case kFailOnNan:
      options.pipeline.fail_on_nan = true;
      return;
    case kStallTimeout:
      if (const std::optional<double> time_s = seconds(value))
        options.pipeline.stall_timeout_s = *time_s;
      else
        problems.push_back(std::string("--stall-timeout takes a number of seconds from 0, not '") + value + "'");
      return;
    case kRuntime:
      options.runtime = value;
      return;
    case kPublicKey:
      options.public_key = value;
      return;
    case kCheck:
      options.only_check = true;
      return;
    case kVerify:
      options.only_verify = true;
      return;
    case kReference:
      options.reference = value;
      return;
    case 'h':
      options.only_help = true;
      return;
    default:
      options.only_version = true;
  }
}

// The directory that this program lies in.
std::string own_folder() {
  std::string path(4096, '\0');
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) return ".";
  path.resize(static_cast<size_t>(length));
  return path.substr(0, path.rfind('/'));
}

// What getopt_long did not take: a name nobody knows, the beginning of several, or a value where there is none.
std::string unknown_option(const std::string& text) {
  if (text.find('=') != std::string::npos) return text + " is no option, or one that takes no value";
  return text + " is no option, or could be several";
}

bool are_same_file(const std::string& one, const std::string& other) {
  struct stat first {}, second {};
  if (one == "-" || other == "-") return false;
  if (stat(one.c_str(), &first) != 0 || stat(other.c_str(), &second) != 0) return false;
  return S_ISREG(first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

void check(const Options& options, std::vector<std::string>& problems) {
  const int inputs = !options.input_files.empty() + !options.raw_input.empty() + !options.spool.empty();
  if (inputs > 1) problems.emplace_back("only one of --input, --raw and --spool can be given");
  const int outputs = !options.output.empty() + !options.raw_output.empty() + !options.results.empty();
  if (outputs > 1) problems.emplace_back("only one of --output, --raw-output and --results can be given");
  if (options.spool.empty() != options.results.empty())
    problems.emplace_back("--spool and --results belong together");
  if (options.follow && options.spool.empty()) problems.emplace_back("--follow is for --spool");
  if (options.repeat != 1 && options.input_files.empty()) problems.emplace_back("--repeat is for --input");
  if (options.raw_output == "-" && options.as_json)
    problems.emplace_back("--json and --raw-output - would both write to standard output");
  if (!options.reference.empty() && !options.only_verify) problems.emplace_back("--reference is for --verify");
  if (options.only_check && options.only_verify) problems.emplace_back("--check and --verify exclude each other");
  if (are_same_file(options.raw_input, options.raw_output))
    problems.emplace_back("--raw and --raw-output name the same file");
  const bool runs_nothing = options.only_check || options.only_verify;
  if (runs_nothing && (inputs + outputs > 0 || options.frames || !options.swaps.empty() || !options.statistics.empty()))
    problems.emplace_back("--check and --verify take no frames and write no results or statistics");
  if (options.frames == 0 && !options.output.empty())
    problems.emplace_back("--output keeps all results until the end, which --frames 0 has not; give --raw-output");
  if (options.frames == 0 && inputs > 0) problems.emplace_back("--frames 0 is for synthetic frames");
}

}  // namespace

Options parse_options(int count, char** arguments) {
  Options options;
  std::vector<std::string> problems;
  opterr = 0;
  for (;;) {
    const int at = optind;
    const int flag = getopt_long(count, arguments, "+:i:o:h", kFlags, nullptr);
    if (flag == -1) {
      if (optind >= count) break;
      if (*arguments[optind] == '\0') problems.emplace_back("the bundle is named by an empty text");
      if (!options.bundle.empty()) problems.push_back(std::string("'") + arguments[optind] + "' is one bundle too many");
      options.bundle = arguments[optind++];
      continue;
    }
    if (flag == '?') problems.push_back(unknown_option(arguments[at]));
    if (flag == ':') problems.push_back(std::string(arguments[at]) + " needs a value");
    if (flag == '?' || flag == ':') continue;
    if (optarg != nullptr && *optarg == '\0')
      problems.push_back(std::string(arguments[at]) + " has an empty value");
    else
      set_flag(flag, optarg, options, problems);
  }
  if (options.only_help || options.only_version) return options;
  check(options, problems);
  if (!problems.empty()) throw UsageError(several("These options make no sense (see --help)", problems));
  if (options.bundle.empty()) options.bundle = own_folder();
  return options;
}

}  // namespace cospipe

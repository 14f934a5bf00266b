#include "sysfs.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace cospipe {

namespace {

constexpr int kMostCores = 1 << 16;  // more than any Linux has

// A number of a core; nothing when the text is none.
std::optional<int> cpu_number(const std::string& text) {
  const bool has_digits = !text.empty() && text.size() <= 6 && text.find_first_not_of("0123456789") == text.npos;
  if (!has_digits || std::atoi(text.c_str()) >= kMostCores) return std::nullopt;
  return std::atoi(text.c_str());
}

// Reads "0-3,6"; what makes no sense is left out.
std::set<int> parse_cpu_list(const std::string& text) {
  std::set<int> cpus;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t dash = part.find('-');
    const std::optional<int> first = cpu_number(part.substr(0, dash));
    const std::optional<int> last = dash == part.npos ? first : cpu_number(part.substr(dash + 1));
    if (!first || !last) continue;
    for (int cpu = *first; cpu <= *last; ++cpu) cpus.insert(cpu);
  }
  return cpus;
}

std::string read_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

}  // namespace

std::optional<double> read_positive_number(const std::string& path) {
  const std::string text = read_line(path);
  if (text.empty() || text.size() > 15 || text.find_first_not_of("0123456789") != text.npos) return std::nullopt;
  const double number = std::strtod(text.c_str(), nullptr);
  return number > 0 ? std::optional<double>(number) : std::nullopt;
}

std::optional<std::set<int>> online_cpus(const std::string& sys) {
  const std::set<int> cpus = parse_cpu_list(read_line(sys + "/devices/system/cpu/online"));
  return cpus.empty() ? std::nullopt : std::optional<std::set<int>>(cpus);
}

std::optional<std::set<int>> allowed_cpus(pid_t thread) {
  // the kernel wants room for all cores it could have, and only says when there is too little
  for (size_t cores = CPU_SETSIZE; cores <= kMostCores; cores *= 2) {
    std::vector<cpu_set_t> mask(CPU_ALLOC_SIZE(cores) / sizeof(cpu_set_t));
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(thread, bytes, mask.data()) == 0) {
      std::set<int> cpus;
      for (size_t cpu = 0; cpu < cores; ++cpu) {
        if (CPU_ISSET_S(cpu, bytes, mask.data())) cpus.insert(static_cast<int>(cpu));
      }
      return cpus;
    }
    if (errno != EINVAL) break;
  }
  return std::nullopt;
}

std::string cpu_text(const std::set<int>& cpus) {
  std::string text;
  for (int cpu : cpus) text += (text.empty() ? "cpu " : ", ") + std::to_string(cpu);
  return text;
}

}  // namespace cospipe

// What Linux tells of cores and of the threads on them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <set>
#include <string>

namespace cospipe {

// A number in a file of its own; nothing when it cannot be read or is no positive number.
std::optional<double> read_positive_number(const std::string& path);

// Cores that are switched on; nothing when nobody says. `sys` is /sys, another directory in tests.
std::optional<std::set<int>> online_cpus(const std::string& sys);

// Cores that a thread may use (0: this one); nothing when it has ended.
std::optional<std::set<int>> allowed_cpus(pid_t thread);

// "cpu 0, 1, 4"
std::string cpu_text(const std::set<int>& cpus);

}  // namespace cospipe

// Everything a user can meet: each message is a sentence that says what is wrong, where, and what to do.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace cospipe {

// A failure; the program ends with status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What was asked for does not exist or makes no sense; the program ends with status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// One message that lists every problem on its own line.
inline std::string several(const std::string& what, const std::vector<std::string>& problems) {
  std::string text = what + ":";
  for (const std::string& problem : problems) text += "\n  - " + problem;
  return text;
}

}  // namespace cospipe

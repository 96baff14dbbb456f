// The one exception type of the project. A message says where, what with both values, and what to do; the fault decides
// the exit code of the program. Expected outcomes are values (std::optional, config::Report), never exceptions.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace automodel {

enum class Fault {
  kUsage,       // the command line is wrong
  kConfig,      // the recipe is wrong
  kData,        // a dataset, tokenizer or text is missing or unusable
  kCheckpoint,  // a model or checkpoint file is missing, damaged or of another model
  kShape,       // tensors do not fit together
  kDevice,      // the requested device or backend is not there
  kComm,        // ranks cannot talk to each other
  kIo,          // the disk is full, read-only or failing
  kRun,         // training itself went wrong: a gradient that is not a number
  kBug,         // a mistake of ours
};

class Error : public std::runtime_error {
 public:
  Error(Fault fault, std::string message) : std::runtime_error(std::move(message)), fault_(fault) {}
  Fault fault() const { return fault_; }

 private:
  Fault fault_;
};

// Exit code of the program for an error found before any rank trains: 2 when the user's input is wrong, 1 otherwise.
int exit_code(Fault fault);

// The name of a fault as the program prints it, e.g. "config".
const char* name_of(Fault fault);

template <class... Args>
[[noreturn]] void fail(Fault fault, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fault, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace automodel

// A contract at the border of a room: throws Error(fault) with a formatted message unless the condition holds.
#define AM_CHECK(condition, fault, ...)                        \
  do {                                                         \
    if (!(condition)) ::automodel::fail((fault), __VA_ARGS__); \
  } while (false)

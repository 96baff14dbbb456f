// Runs the program as a user does: from the top folder, through a shell.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace automodel::cli_test {

struct Run {
  int code = -1;
  std::string output;  // stdout, and stderr when asked for
};

inline Run run(const std::string& arguments, bool with_errors = true) {
  const std::string command =
      "cd " AUTOMODEL_SOURCE_DIR " && " AUTOMODEL_BINARY " " + arguments + (with_errors ? " 2>&1" : " 2>/dev/null");
  Run result;
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe);
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

inline bool has(const Run& result, const std::string& part) {
  return result.output.find(part) != std::string::npos;
}

}  // namespace automodel::cli_test

// Runs the program as a user does: from the top folder, through a shell.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

namespace automodel::cli_test {

struct Run {
  int code = -1;
  std::string output;  // stdout, and stderr when asked for
};

// `launcher`: what starts the program, if anything.
inline Run run(const std::string& arguments, bool with_errors = true, const std::string& launcher = "") {
  const std::string command = "cd " AUTOMODEL_SOURCE_DIR " && " + launcher + " " AUTOMODEL_BINARY " " + arguments +
                              (with_errors ? " 2>&1" : " 2>/dev/null");
  Run result;
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe);
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

// A folder of this process's own, which goes with the object.
struct Folder {
  explicit Folder(const std::string& name)
      : path(std::filesystem::temp_directory_path() / ("automodel-" + name + "-" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  std::filesystem::path path;
};

inline bool has(const Run& result, const std::string& part) {
  return result.output.find(part) != std::string::npos;
}

}  // namespace automodel::cli_test

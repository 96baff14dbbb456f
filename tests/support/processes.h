// Jobs of real processes, run through a shell.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

namespace automodel::test {

struct Outcome {
  int code = -1;  // 128 + the signal that ended it
  double seconds = 0;
  std::string output;

  int count(const std::string& text) const {
    int n = 0;
    for (size_t at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) ++n;
    return n;
  }
  bool has(const std::string& text) const { return count(text) > 0; }
};

inline Outcome run_command(const std::string& command) {
  const auto start = std::chrono::steady_clock::now();
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) outcome.output.append(buffer, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

// Every process of the program is gone, a moment after the launcher at most.
inline bool no_orphans(const std::string& program, int tenths = 20) {
  namespace fs = std::filesystem;
  for (int attempt = 0; attempt < tenths; ++attempt) {
    int alive = 0;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::error_code ignored;
      alive += fs::read_symlink(entry.path() / "exe", ignored) == fs::path(program);
    }
    if (alive == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

}  // namespace automodel::test

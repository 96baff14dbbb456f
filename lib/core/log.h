// Console logging. Only core/log.cpp knows spdlog. Nothing parses log text: programs read the JSONL files.
// Lines go to stderr: "YYYY-MM-DD HH:MM:SS | LEVEL | name | message".
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

namespace automodel::log {

enum class Level { kDebug, kInfo, kWarning, kError, kOff };

// Sets up this process: messages below `level` are dropped; `prefix` (a rank and its coordinates) stands before every
// message when it is not empty. May be called again. LOGGING_LEVEL, NO_COLOR and FORCE_COLOR of the environment are
// heeded.
void configure(Level level, std::string prefix = "");

void write(Level level, std::string_view message);
bool enabled(Level level);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug)) write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kWarning)) write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kError)) write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace automodel::log

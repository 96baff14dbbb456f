#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

namespace automodel::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
    case Level::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

// LOGGING_LEVEL holds a number on Python's scale: 10 debug, 20 info, 30 warning, 40 error.
Level from_environment(Level fallback) {
  const char* text = std::getenv("LOGGING_LEVEL");
  if (text == nullptr) return fallback;
  char* end = nullptr;
  long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0') return fallback;
  if (value <= 10) return Level::kDebug;
  if (value <= 20) return Level::kInfo;
  if (value <= 30) return Level::kWarning;
  return Level::kError;
}

spdlog::color_mode color_mode() {
  const char* no = std::getenv("NO_COLOR");
  if (no != nullptr && *no != '\0') return spdlog::color_mode::never;
  const char* force = std::getenv("FORCE_COLOR");
  if (force != nullptr && *force != '\0') return spdlog::color_mode::always;
  return isatty(STDERR_FILENO) ? spdlog::color_mode::always : spdlog::color_mode::never;
}

struct State {
  std::shared_ptr<spdlog::logger> logger;
  std::string prefix;
};

// The process's log is the one thing that is global: it is the terminal.
State& state() {
  static State instance = [] {
    auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(color_mode());
    State made{std::make_shared<spdlog::logger>("automodel", std::move(sink)), ""};
    made.logger->set_pattern("%Y-%m-%d %H:%M:%S | %^%l%$ | %n | %v");
    made.logger->set_level(to_spdlog(from_environment(Level::kInfo)));
    made.logger->flush_on(spdlog::level::debug);
    return made;
  }();
  return instance;
}

}  // namespace

void configure(Level level, std::string prefix) {
  state().logger->set_level(to_spdlog(from_environment(level)));
  state().prefix = std::move(prefix);
}

void write(Level level, std::string_view message) {
  auto& s = state();
  if (s.prefix.empty())
    s.logger->log(to_spdlog(level), message);
  else
    s.logger->log(to_spdlog(level), "{} {}", s.prefix, message);
}

bool enabled(Level level) {
  return state().logger->should_log(to_spdlog(level));
}

}  // namespace automodel::log

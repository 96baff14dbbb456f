#include "train/mistakes.h"

#include <algorithm>
#include <string>

namespace automodel::train {

namespace {

std::string_view section_of(std::string_view key) {
  return key.substr(0, key.find('.'));
}

bool matches(std::string_view section, std::string_view name) {
  return name.ends_with('*') ? section.starts_with(name.substr(0, name.size() - 1)) : section == name;
}

}  // namespace

bool intact(const config::Report& report, std::initializer_list<std::string_view> sections) {
  return std::ranges::none_of(report.problems(), [&](const config::Problem& problem) {
    return std::ranges::any_of(sections, [&](std::string_view name) { return matches(section_of(problem.key), name); });
  });
}

bool Mistakes::has_stray_section() const {
  return std::ranges::any_of(report_.problems(), [](const config::Problem& problem) {
    return problem.message == "unknown key" && problem.key.find('.') == std::string::npos;
  });
}

bool Mistakes::attempt(const std::function<void()>& stage) {
  try {
    stage();
    return true;
  } catch (const Error& error) {
    if (exit_code(error.fault()) != exit_code(Fault::kConfig)) throw;
    const bool told = std::ranges::any_of(
        errors_, [&](const Error& other) { return std::string_view(other.what()) == error.what(); });
    if (!told) errors_.push_back(error);
    return false;
  }
}

void Mistakes::throw_if_any() const {
  if (report_.empty() && errors_.empty()) return;
  std::string text = report_.text();
  for (const Error& error : errors_) text += std::string(error.what()) + "\n";
  text.pop_back();
  throw Error(report_.empty() ? errors_.front().fault() : Fault::kConfig, std::move(text));
}

}  // namespace automodel::train

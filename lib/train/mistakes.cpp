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

// The message without the key, or its section, that it begins with: both will stand before it.
std::string without_key(std::string message, const std::string& key) {
  for (const std::string& lead : {key + ": ", key + " ", std::string(section_of(key)) + ": "})
    if (message.starts_with(lead)) return message.substr(lead.size());
  return message;
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

bool Mistakes::attempt(const config::Node& recipe, const std::string& key, const std::function<void()>& stage) {
  try {
    stage();
    return true;
  } catch (const Error& error) {
    if (exit_code(error.fault()) != exit_code(Fault::kConfig)) throw;
    const std::string message = without_key(error.what(), key);
    const bool told = std::ranges::any_of(report_.problems(), [&](const config::Problem& problem) {
      return problem.key == key && problem.message == message;
    });
    if (told) return false;
    config::Problems(report_, recipe, "").add(key, message);
    faults_.push_back(error.fault());
    return false;
  }
}

void Mistakes::throw_if_any() const {
  if (report_.empty()) return;
  std::string text = report_.text();
  text.pop_back();
  const bool stages_alone = faults_.size() == report_.problems().size() &&
                            std::ranges::all_of(faults_, [&](Fault fault) { return fault == faults_.front(); });
  throw Error(stages_alone ? faults_.front() : Fault::kConfig, std::move(text));
}

}  // namespace automodel::train

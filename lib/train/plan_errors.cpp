// Errors are written for people: "recipe.yaml:2:1: what is wrong\n    the line\n    ^\n    hint: what to do".
#include "train/plan_errors.h"

#include <nlohmann/json.hpp>

namespace automodel::train {

std::string errors_json(const Error& error, const std::string& path) {
  const std::string lead = "\n    hint: ";
  std::string message = error.what(), hint, source;
  if (const size_t at = message.find(lead); at != std::string::npos) {
    hint = message.substr(at + lead.size());
    message.resize(at);
  }
  const size_t end = message.find(": ");
  const bool placed = message.starts_with("--") || (!path.empty() && message.starts_with(path));
  if (placed && end != std::string::npos) {
    source = message.substr(0, end);
    message.erase(0, end + 2);
    // The quoted line is at that place.
    if (const size_t line = message.find("\n    "); line != std::string::npos) message.resize(line);
  }
  using json = nlohmann::ordered_json;
  const json entry = {{"key", ""}, {"message", message}, {"hint", hint}, {"source", source}};
  return json::array({entry}).dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace automodel::train

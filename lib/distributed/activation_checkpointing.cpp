#include "distributed/activation_checkpointing.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>

namespace automodel::distributed {

void describe(config::Names<ActivationCheckpointing>& n) {
  n("false", ActivationCheckpointing::kNone, "every activation is kept");
  n("off", ActivationCheckpointing::kNone)("none", ActivationCheckpointing::kNone);
  n("disabled", ActivationCheckpointing::kNone)("no", ActivationCheckpointing::kNone);
  n("true", ActivationCheckpointing::kFull, "only the inputs of each layer are kept; the layer runs again");
  n("on", ActivationCheckpointing::kFull)("full", ActivationCheckpointing::kFull);
  n("enabled", ActivationCheckpointing::kFull)("yes", ActivationCheckpointing::kFull);
  n("selective", ActivationCheckpointing::kSelective,
    "results of attention, exchanges and every other product are kept too");
  n.ignore_case();
}

namespace {

// The parts of one word: "Language + vision" is language and vision.
std::vector<std::string> parts_of(const std::string& word) {
  std::vector<std::string> parts(1);
  for (char c : word) {
    const char lower = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (lower == ',' || lower == '+') {
      parts.emplace_back();
    } else {
      parts.back() += lower;
    }
  }
  for (std::string& part : parts) {
    const auto blank = [](unsigned char c) { return std::isspace(c) != 0; };
    part.erase(part.begin(), std::find_if_not(part.begin(), part.end(), blank));
    part.erase(std::find_if_not(part.rbegin(), part.rend(), blank).base(), part.end());
    if (part == "default" || part == "auto") part = "all";
  }
  std::erase(parts, "");
  return parts;
}

}  // namespace

ScopeResult normalise_scope(const std::vector<std::string>& words) {
  ScopeResult result;
  for (const std::string& word : words) {
    for (std::string& part : parts_of(word)) {
      static constexpr const char* kKnown[] = {"all", "language", "vision", "audio", "multimodal"};
      if (std::find(std::begin(kKnown), std::end(kKnown), part) == std::end(kKnown)) {
        result.mistake = fmt::format("unknown part '{}'; the parts are all, language, vision, audio, multimodal", part);
      }
      if (std::find(result.scope.begin(), result.scope.end(), part) == result.scope.end()) {
        result.scope.push_back(std::move(part));
      }
    }
  }
  if (result.scope.empty()) result.scope = {"all"};
  const bool all = std::find(result.scope.begin(), result.scope.end(), "all") != result.scope.end();
  if (all && result.scope.size() > 1 && result.mistake.empty()) {
    result.mistake = "'all' stands alone; it cannot be combined with other parts";
  }
  return result;
}

bool covers_language(const CheckpointScope& scope) {
  return std::any_of(scope.begin(), scope.end(), [](const auto& part) { return part == "all" || part == "language"; });
}

}  // namespace automodel::distributed

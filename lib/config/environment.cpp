#include "config/environment.h"

#include <fmt/core.h>

#include <cstdlib>

#include "config/scalar.h"

namespace automodel::config {
namespace {

bool name_start(char c) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool name_char(char c) {
  return name_start(c) || (c >= '0' && c <= '9');
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// End of the name that starts at `at`: words of letters, digits and _, joined by single dots.
size_t end_of_name(std::string_view text, size_t at) {
  while (at < text.size() && name_char(text[at])) ++at;
  while (at + 1 < text.size() && text[at] == '.' && name_start(text[at + 1])) {
    ++at;
    while (at < text.size() && name_char(text[at])) ++at;
  }
  return at;
}

// Looks up what stands between ${ and }, or behind $.
std::optional<std::string> look_up(std::string_view inside, const Environment& environment, std::string& name) {
  constexpr std::string_view kCompatible = "oc.env:";
  inside = trimmed(inside);
  if (inside.starts_with(kCompatible)) inside.remove_prefix(kCompatible.size());
  const size_t comma = inside.find(',');
  name = trimmed(inside.substr(0, comma));
  if (std::optional<std::string> value = name.empty() ? std::nullopt : environment(name)) return value;
  if (comma == std::string_view::npos || name.empty()) return std::nullopt;
  return std::string(trimmed(inside.substr(comma + 1)));
}

Problem unset(const std::string& name, std::string_view token) {
  Problem problem;
  if (name.empty()) {
    problem.message = fmt::format("'{}' names no environment variable", token);
    problem.hint = "write ${VAR} or ${VAR,default}";
  } else {
    problem.message = fmt::format("environment variable '{}' is not set (in '{}')", name, token);
    problem.hint = fmt::format("export {}, or give a default: ${{{},default}}", name, name);
  }
  return problem;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value ? std::optional<std::string>(value) : std::nullopt;
  };
}

void interpolate(Node& node, const Environment& environment) {
  if (!node.is_string() || node.as_string().find('$') == std::string::npos) return;
  const std::string text = node.as_string();
  std::string out;
  bool replaced = false;
  for (size_t i = 0; i < text.size();) {
    const bool braces = text[i] == '$' && i + 1 < text.size() && text[i + 1] == '{';
    const bool plain = text[i] == '$' && i + 1 < text.size() && name_start(text[i + 1]);
    const size_t close = braces ? text.find('}', i) : std::string::npos;
    if (!plain && close == std::string::npos) {
      out += text[i++];
      continue;
    }
    const size_t end = braces ? close + 1 : end_of_name(text, i + 1);
    const std::string_view token = std::string_view(text).substr(i, end - i);
    const std::string_view inside = braces ? token.substr(2, token.size() - 3) : token.substr(1);
    std::string name;
    const std::optional<std::string> value = look_up(inside, environment, name);
    if (!value) {
      Problem problem = unset(name, token);
      problem.origin = node.origin();
      node.add_defect(std::move(problem));
      return;
    }
    out += *value;
    replaced = true;
    i = end;
  }
  if (!replaced) return;
  Node result = translate(out);
  if (result.is_string()) result.set_placeholder(text);
  result.set_origin(node.origin());
  node = std::move(result);
}

}  // namespace automodel::config

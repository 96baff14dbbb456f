#include "config/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/error.h"

namespace automodel::config {
namespace {

// In the order of the file; overrides behind it, then what has no place.
std::vector<Problem> in_order(std::vector<Problem> problems) {
  const auto rank = [](const Problem& problem) {
    const Source* source = problem.origin.source.get();
    const int place = !source ? 2 : source->flag ? 1 : 0;
    return std::make_tuple(place, place == 0 ? std::string_view(source->name) : std::string_view(),
                           place == 0 ? problem.origin.line : 0, place == 0 ? problem.origin.column : 0);
  };
  std::stable_sort(problems.begin(), problems.end(),
                   [&](const Problem& a, const Problem& b) { return rank(a) < rank(b); });
  return problems;
}

bool continues(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

// The line that the problem is on with a caret under its column; a long line is cut to a window around it.
std::string quoted_line(const Origin& origin) {
  if (!origin.source || origin.line < 1 || origin.line > static_cast<int>(origin.source->lines.size())) return "";
  constexpr size_t kWidth = 100;
  std::string line = origin.source->lines[static_cast<size_t>(origin.line - 1)];
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  size_t caret = origin.column > 0 ? std::min(static_cast<size_t>(origin.column - 1), line.size()) : 0;
  if (line.size() > kWidth) {
    size_t begin = caret > kWidth / 2 ? caret - kWidth / 2 : 0;
    while (begin < caret && continues(line[begin])) ++begin;
    size_t end = std::min(begin + kWidth, line.size());
    while (end < line.size() && continues(line[end])) ++end;
    line = line.substr(begin, end - begin);
    caret -= begin;
  }
  std::string out = fmt::format("\n    {}", line);
  if (origin.column > 0) {
    const auto wide = std::count_if(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(caret), continues);
    out += fmt::format("\n    {}^", std::string(caret - static_cast<size_t>(wide), ' '));
  }
  return out;
}

}  // namespace

std::string format_problem(const Problem& problem) {
  std::string out;
  if (problem.origin.source) out += problem.origin.text() + ": ";
  // "--optimizer.lr" already names the key.
  const bool named =
      problem.origin.source && problem.origin.source->flag && "--" + problem.key == problem.origin.text();
  if (!problem.key.empty() && !named) out += problem.key + ": ";
  out += problem.message;
  out += quoted_line(problem.origin);
  if (!problem.hint.empty()) out += "\n    hint: " + problem.hint;
  return out;
}

std::string Report::text() const {
  std::string out;
  for (const Problem& problem : in_order(problems_)) out += format_problem(problem) + "\n";
  return out;
}

std::string Report::json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Problem& problem : in_order(problems_)) {
    list.push_back({{"key", problem.key},
                    {"message", problem.message},
                    {"hint", problem.hint},
                    {"source", problem.origin.source ? problem.origin.text() : ""}});
  }
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Report::throw_if_any() const {
  if (problems_.empty()) return;
  std::string message = text();
  message.pop_back();
  throw Error(Fault::kConfig, std::move(message));
}

void Problems::add(std::string_view key, std::string message, std::string hint) {
  // The nearest part of the path that was written: the value, else its section.
  Origin origin = section_.origin();
  for (std::string_view part = key; !part.empty();) {
    const Node* node = section_.at_path(part);
    if (node && node->origin().source) {
      origin = node->origin();
      break;
    }
    const size_t dot = part.rfind('.');
    part = dot == std::string_view::npos ? std::string_view() : part.substr(0, dot);
  }
  std::string full = path_;
  if (!path_.empty() && !key.empty()) full += '.';
  full += key;
  report_.add({std::move(full), std::move(message), std::move(hint), std::move(origin)});
}

}  // namespace automodel::config

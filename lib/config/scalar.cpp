// The YAML 1.1 types are PyYAML's resolver written as scanners. They differ from YAML 1.2 and from yaml-cpp: 012 is
// octal, 1:30 is sexagesimal, 1e-8 is a string here (no dot) and becomes a number only in the translator.
#include "config/scalar.h"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace automodel::config {
namespace {

bool digit(char c) {
  return c >= '0' && c <= '9';
}

template <size_t n>
bool in(std::string_view text, const std::array<std::string_view, n>& words) {
  for (const std::string_view word : words) {
    if (text == word) return true;
  }
  return false;
}

std::optional<bool> yaml_bool(std::string_view text) {
  constexpr std::array<std::string_view, 9> kTrue{"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"};
  constexpr std::array<std::string_view, 9> kFalse{"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"};
  if (in(text, kTrue)) return true;
  if (in(text, kFalse)) return false;
  return std::nullopt;
}

std::string without_underscores(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != '_') out += c;
  }
  return out;
}

// An integer of digits of one base, or the nearest float when it does not fit 64 bits.
std::optional<Node> integer_of(std::string digits, bool negative, int base) {
  if (digits.empty()) return std::nullopt;
  if (negative) digits.insert(digits.begin(), '-');
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, base);
  if (stop != end) return std::nullopt;
  if (error == std::errc()) return Node::integer(value);
  if (base == 10) return Node::real(std::strtod(digits.c_str(), nullptr));
  double real = 0;
  for (const char c : digits) {
    if (c == '-') continue;
    real = real * base + (digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return Node::real(negative ? -real : real);
}

// 1:30 and 1:30.5: base 60.
std::optional<Node> sexagesimal(std::string_view body, bool negative) {
  if (body.empty() || !digit(body[0]) || body.find(':') == std::string_view::npos) return std::nullopt;
  const size_t dot = body.find('.');
  if (dot == std::string_view::npos && body[0] == '0') return std::nullopt;
  double total = 0;
  bool first = true;
  std::string_view rest = body.substr(0, dot);
  while (true) {
    const size_t colon = rest.find(':');
    const std::string part = first ? without_underscores(rest.substr(0, colon)) : std::string(rest.substr(0, colon));
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
    if (!first && (part.size() > 2 || (part.size() == 2 && part[0] > '5'))) return std::nullopt;
    total = total * 60 + std::strtod(part.c_str(), nullptr);
    first = false;
    if (colon == std::string_view::npos) break;
    rest = rest.substr(colon + 1);
  }
  if (dot == std::string_view::npos) {
    if (total > 9e15) return Node::real(negative ? -total : total);
    return Node::integer(static_cast<int64_t>(negative ? -total : total));
  }
  const std::string fraction = without_underscores(body.substr(dot + 1));
  if (fraction.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  total += std::strtod(("0." + fraction).c_str(), nullptr);
  return Node::real(negative ? -total : total);
}

std::optional<Node> yaml_int(std::string_view body, bool negative) {
  const auto only = [](std::string_view text, std::string_view set) {
    return !text.empty() && text.find_first_not_of(set) == std::string_view::npos;
  };
  if (body.size() > 2 && body[0] == '0' && body[1] == 'b' && only(body.substr(2), "01_")) {
    return integer_of(without_underscores(body.substr(2)), negative, 2);
  }
  if (body.size() > 2 && body[0] == '0' && body[1] == 'x' && only(body.substr(2), "0123456789abcdefABCDEF_")) {
    return integer_of(without_underscores(body.substr(2)), negative, 16);
  }
  if (body == "0") return Node::integer(0);
  if (body.size() > 1 && body[0] == '0' && only(body.substr(1), "01234567_")) {
    return integer_of(without_underscores(body.substr(1)), negative, 8);
  }
  if (!body.empty() && body[0] != '0' && body[0] != '_' && only(body, "0123456789_")) {
    return integer_of(without_underscores(body), negative, 10);
  }
  return std::nullopt;
}

// [0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?  and  \.[0-9][0-9_]*([eE][-+][0-9]+)?
std::optional<Node> yaml_float(std::string_view body, bool negative, bool has_sign) {
  if (body == ".inf" || body == ".Inf" || body == ".INF") {
    const double infinity = std::numeric_limits<double>::infinity();
    return Node::real(negative ? -infinity : infinity);
  }
  if (!has_sign && (body == ".nan" || body == ".NaN" || body == ".NAN")) {
    return Node::real(std::numeric_limits<double>::quiet_NaN());
  }
  const size_t dot = body.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  size_t i = dot + 1;
  while (i < body.size() && (digit(body[i]) || body[i] == '_')) ++i;
  if (dot == 0) {
    if (has_sign || i == 1 || !digit(body[1])) return std::nullopt;
  } else if (!digit(body[0]) || body.substr(0, dot).find_first_not_of("0123456789_") != std::string_view::npos) {
    return std::nullopt;
  }
  if (i < body.size()) {
    if (body[i] != 'e' && body[i] != 'E') return std::nullopt;
    if (++i >= body.size() || (body[i] != '-' && body[i] != '+')) return std::nullopt;
    if (++i >= body.size() || body.substr(i).find_first_not_of("0123456789") != std::string_view::npos) {
      return std::nullopt;
    }
  }
  const double value = std::strtod(without_underscores(body).c_str(), nullptr);
  return Node::real(negative ? -value : value);
}

std::optional<Node> yaml_number(std::string_view text) {
  if (text.empty()) return std::nullopt;
  const bool has_sign = text[0] == '-' || text[0] == '+';
  const bool negative = text[0] == '-';
  const std::string_view body = text.substr(has_sign ? 1 : 0);
  if (body.empty() || (!digit(body[0]) && body[0] != '.')) return std::nullopt;
  if (std::optional<Node> node = yaml_int(body, negative)) return node;
  if (std::optional<Node> node = yaml_float(body, negative, has_sign)) return node;
  return sexagesimal(body, negative);
}

Node untranslated(std::string_view text) {
  return Node::string(std::string(text));
}

}  // namespace

Node translate(std::string_view text) {
  constexpr size_t kLongest = 1000;
  Node node = untranslated(text);
  if (text == "none" || text == "None") {
    node = Node::null();
  } else if (text == "true" || text == "True") {
    node = Node::boolean(true);
  } else if (text == "false" || text == "False") {
    node = Node::boolean(false);
  } else if (text.size() <= kLongest) {
    if (std::optional<Node> literal = python_literal(text)) node = std::move(*literal);
  }
  node.set_text(std::string(text));
  return node;
}

Node resolve_plain(std::string_view text) {
  constexpr std::array<std::string_view, 5> kNull{"", "~", "null", "Null", "NULL"};
  std::optional<Node> node;
  if (in(text, kNull)) {
    node = Node::null();
  } else if (const std::optional<bool> boolean = yaml_bool(text)) {
    node = Node::boolean(*boolean);
  } else {
    node = yaml_number(text);
  }
  if (!node) return translate(text);
  node->set_text(std::string(text));
  return *node;
}

std::string format_double(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value < 0 ? "-.inf" : ".inf";
  std::string text = fmt::format("{}", value);
  const size_t exponent = text.find('e');
  if (text.find('.') == std::string::npos) {
    text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
  }
  return text;
}

}  // namespace automodel::config

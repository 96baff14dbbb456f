// What the text of one scalar means.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "config/node.h"

namespace automodel::config {

// The translator that YAML strings and command-line values share: none/None, true/True/false/False, Python literals
// (numbers, strings, lists, tuples, dicts) up to 1000 characters; any other text is itself. `text()` of the result is
// the given text; the origin is the caller's.
Node translate(std::string_view text);

// A plain (unquoted) YAML scalar: the YAML 1.1 types first, then translate().
Node resolve_plain(std::string_view text);

// A Python literal as ast.literal_eval reads it, without complex numbers, bytes and sets. Tuples become lists; integers
// beyond 64 bits become floats. Nothing when the text is not one.
std::optional<Node> python_literal(std::string_view text);

// The shortest text that reads back as the same double, and as a float in YAML 1.1 too: "1.0e-05", "0.1", "3.0",
// ".inf".
std::string format_double(double value);

}  // namespace automodel::config

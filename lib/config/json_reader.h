// JSON text to Node, so that a config.json is described and read like a recipe. Strings are never re-typed and never
// looked up in the environment. Origins hold lines, not columns.
#pragma once

#include <string>
#include <string_view>

#include "config/node.h"

namespace automodel::config {

// Throws Error(kConfig) when the text is not JSON, nests deeper than 100 levels or has more than 2,000,000 values. A
// key given twice becomes a defect of the tree. NaN, Infinity and -Infinity are not JSON and are refused.
Node parse_json(std::string_view text, std::string_view name);
Node load_json(const std::string& path);

// The tree as JSON. Numbers that JSON cannot hold (inf, nan) become strings. Secrets are masked, placeholders kept.
std::string dump_json(const Node& node, int indent = 2);

}  // namespace automodel::config

// Command-line overrides: "--optimizer.lr 1e-4", "--optimizer.lr=1e-4", "--checkpoint.enabled" (true).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/node.h"
#include "config/report.h"
#include "config/yaml_reader.h"

namespace automodel::config {

struct Override {
  std::string key;  // dotted path
  Node value;       // its origin is the flag
};

struct Overrides {
  std::vector<Override> items;             // in the order of the command line
  std::optional<std::string> config_path;  // of "--config PATH" or "-c PATH"; the last one wins
};

// Reads the tokens that are not flags of the program. A token that starts with "--" is a key; its value stands after
// the first '=', or is the next token unless that starts with "--", or is true. Values are Python literals, none, null,
// ~, true, false, flow lists and mappings of bare words ([q_proj, v_proj]), or else plain strings; variables are
// replaced as in YAML. A stray word, an empty key, a missing PATH are problems.
Overrides parse_overrides(const std::vector<std::string>& tokens, Report& report,
                          const Environment& environment = process_environment());

// Sets each override in turn; the last one wins. Missing sections are made; a scalar or list in the way becomes a
// section. Numbers in a path are keys, not list positions.
void apply(Node& root, const Overrides& overrides);

}  // namespace automodel::config

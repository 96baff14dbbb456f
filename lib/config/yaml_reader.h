// YAML text to Node. Scalars follow YAML 1.1 as PyYAML's safe loader resolves them (yes/no/on/off are booleans, 012 is
// octal, 1:30 is 90), and then the translator of Python literals (1e-8 is a number, none is null). Quoted scalars stay
// strings; config::read accepts them where a number, a boolean or null is expected. Dates stay strings.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "config/node.h"

namespace automodel::config {

// Looks up an environment variable. Tests pass their own.
using Environment = std::function<std::optional<std::string>(const std::string&)>;
Environment process_environment();

// `name` is what origins show, usually the path. ${VAR}, ${VAR,default}, ${oc.env:VAR} and $VAR are replaced in every
// string value. Throws Error(kConfig) with position and caret when the text is not YAML, has more than one document,
// nests deeper than 100 levels or expands to more than 200,000 values. Duplicate keys and unset variables become
// defects of the tree. An empty text is null.
Node parse_yaml(std::string_view text, std::string_view name, const Environment& environment = process_environment());

// The same for a file. Throws Error(kIo) when it cannot be read.
Node load_yaml(const std::string& path, const Environment& environment = process_environment());

}  // namespace automodel::config

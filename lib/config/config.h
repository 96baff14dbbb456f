// Everything that a program needs to load a configuration:
//
//   config::Report report;
//   config::Node node = config::load_yaml(path);
//   config::apply(node, config::parse_overrides(tokens, report));
//   Recipe recipe = config::read<Recipe>(node, report);
//   report.throw_if_any();
//   std::string resolved = config::dump(recipe, &node);
//
// Headers that only describe structs include config/schema.h.
#pragma once

#include "config/dump.h"
#include "config/explain.h"
#include "config/json_reader.h"
#include "config/overrides.h"
#include "config/read.h"
#include "config/report.h"
#include "config/schema.h"
#include "config/yaml_reader.h"

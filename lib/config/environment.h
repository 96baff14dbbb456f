// Environment variables inside values.
#pragma once

#include <string>
#include <string_view>

#include "config/node.h"
#include "config/yaml_reader.h"

namespace automodel::config {

// Replaces ${VAR}, ${VAR,default}, ${oc.env:VAR}, ${oc.env:VAR,default} and $VAR in a string node and translates the
// result again, so that ${N,4} is a number. Names may hold dots. A result that is still a string remembers the given
// text as its placeholder. An unset variable without default is a defect of the node. Other nodes stay as they are.
void interpolate(Node& node, const Environment& environment);

}  // namespace automodel::config

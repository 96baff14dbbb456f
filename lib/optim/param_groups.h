// Parameters whose learning rate or weight decay differs from the rest, chosen by name.
#pragma once

#include <string>
#include <vector>

#include "config/schema.h"

namespace automodel::optim {

struct ParamGroupOverride {
  std::string pattern;  // a regular expression that is searched for in the name
  double lr_mult = 1;
  double wd_mult = 1;
};
void describe(config::Fields<ParamGroupOverride>&);

struct Multipliers {
  double lr = 1;
  double weight_decay = 1;

  bool operator==(const Multipliers&) const = default;
};

struct GroupAssignment {
  std::vector<Multipliers> multipliers;  // of each name, in order
  std::vector<std::string> warnings;     // patterns that match no name, in plain sentences
};

// The first override whose pattern is found in a name decides; names without one keep 1 and 1.
GroupAssignment assign_groups(const std::vector<ParamGroupOverride>& overrides, const std::vector<std::string>& names);

}  // namespace automodel::optim

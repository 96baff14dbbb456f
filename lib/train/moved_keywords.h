// Names by which the reference's loaders and older recipes took parts of the distributed set-up beside the model, and
// where each is written now. The C++ loaders have no such arguments; recipes and the command line refuse the names.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace automodel::train {

struct MovedKeyword {
  const char* name;
  const char* now;  // key of a recipe
  bool retired;     // the reference's loaders refuse it by name; the others end among the fields of its model's config
};
std::span<const MovedKeyword> moved_keywords();

// The retired ones among `names`, each once, in the order of the alphabet: what the reference's loaders complain about,
// before they look at anything else.
std::vector<std::string> retired_keywords(std::span<const std::string> names);

}  // namespace automodel::train

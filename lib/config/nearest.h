// Did you mean ...?
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace automodel::config {

// The candidate with the fewest edits (insert, delete, replace, swap neighbours; case and -/_ are free), when there are
// few enough for a typing mistake; empty otherwise.
std::string nearest(std::string_view text, const std::vector<std::string>& candidates);

}  // namespace automodel::config

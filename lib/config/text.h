// Help with wording.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace automodel::config {

std::string joined(const std::vector<std::string>& parts, std::string_view between);

// Did you mean ...? The candidate with the fewest edits (insert, delete, replace, swap neighbours; case and -/_ are
// free), when there are few enough for a typing mistake; empty otherwise.
std::string nearest(std::string_view text, const std::vector<std::string>& candidates);

}  // namespace automodel::config

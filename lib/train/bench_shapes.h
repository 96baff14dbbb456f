// The models that bench knows, as the config.json of each.
#pragma once

#include <string>
#include <vector>

namespace automodel::train {

// Smallest first.
std::vector<std::string> bench_models();

// "a, b or c".
std::string bench_models_text();

// Throws Error(kUsage) for an unknown name.
std::string bench_config(const std::string& model);

}  // namespace automodel::train

// Whether the parallel axes can cut a model: arithmetic over what its config says and the sizes that are asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/report.h"
#include "distributed/parallelism_sizes.h"
#include "models/causal_lm.h"

namespace automodel::models {

struct Violation {
  std::string key;      // in the `distributed` section, such as "tp_size"
  std::string message;  // both numbers and what is wrong
  std::string hint;     // the nearest sizes that fit
};

// Everything about the model that the sizes cannot cut: of what the model has cut (ModelInfo::cuts_*), tp divides
// attention heads, divides or is a multiple of the key/value heads, and gives every rank some of the MLPs and of the
// vocabulary (in parts of ceil(vocabulary / tp) rows, which need not come out even), pp leaves every stage a layer, ep
// divides the experts. Sizes of 0 or less count as 1.
std::vector<Violation> violations(const ModelInfo& model, const distributed::ParallelismSizes& sizes);

// The same as problems of the `distributed` section.
void check_capabilities(const ModelInfo& model, const distributed::ParallelismSizes& sizes, config::Problems& problems);

}  // namespace automodel::models

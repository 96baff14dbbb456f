// How many pipeline stages a model is cut into, and which layers each of them has. Pure.
#pragma once

#include <optional>
#include <vector>

#include "distributed/pipeline_config.h"

namespace automodel::parallel {

struct StageRequest {
  int layers = 1;
  int ranks = 1;
  bool single_stage = true;  // one stage a rank (is_single_stage), else at least two
  std::optional<int64_t> layers_per_stage;
  std::optional<distributed::StageRounding> rounding;
};

// One stage a rank, or two, unless layers_per_stage asks for another number: as many as hold all layers, rounded to a
// multiple of the ranks. Error(kConfig), with the numbers and what would fit: not a multiple and no rounding; another
// number of stages a rank than the schedule has; more stages than layers.
int stage_count(const StageRequest& request);

// Layers [begin, end) of each stage: equal, the first ones with one more where they do not divide.
struct LayerRange {
  int begin = 0;
  int end = 0;
  bool operator==(const LayerRange&) const = default;
};
std::vector<LayerRange> split_layers(int layers, int stages);

}  // namespace automodel::parallel

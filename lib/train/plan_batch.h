// The batches and the length of a run as the recipe alone tells them; no data is opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan/rank_plan.h"
#include "train/recipe_config.h"

namespace automodel::train {

struct BatchPlan {
  plan::BatchShape microbatch;         // of one rank
  int64_t global_batch = 0;            // samples of a step, as the recipe has it
  int64_t accumulation = 1;            // microbatches of a step
  int64_t dp_size = 1;                 // global_batch = rows * accumulation * dp_size, unless the data has fewer
  std::string assumed;                 // how the shape was chosen where the data decides it; empty: it is certain
  std::optional<int64_t> samples;      // of an epoch, where the recipe says it
  std::optional<int64_t> epoch_steps;  // likewise
  std::optional<int64_t> steps;        // of the run; at most, when `epoch_steps` is not known

  int64_t tokens_per_step() const { return microbatch.rows * accumulation * dp_size * microbatch.cols; }
};

// The batch sizes were checked against `dp_size` (check_against_world). Throws Error(kData) when an epoch is too short
// for one batch.
BatchPlan plan_batch(const RecipeConfig& recipe, int64_t dp_size);

// The largest batch of each validation set.
std::vector<plan::BatchShape> validation_batches(const RecipeConfig& recipe);

}  // namespace automodel::train

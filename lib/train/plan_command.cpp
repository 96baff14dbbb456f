#include "train/commands.h"
#include "train/plan_distributed.h"
#include "train/plan_recipe.h"

namespace automodel::train {

int run_plan(const PlanOptions& options) {
  return options.only_distributed ? plan_distributed(options) : plan_recipe(options);
}

}  // namespace automodel::train

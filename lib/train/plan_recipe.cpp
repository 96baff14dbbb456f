#include "train/plan_recipe.h"

#include "core/error.h"

namespace automodel::train {

int plan_recipe(const PlanOptions& options) {
  fail(Fault::kUsage, "{}: only the distributed section can be planned yet; add --only distributed",
       options.recipe.path);
}

}  // namespace automodel::train

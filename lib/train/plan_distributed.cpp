#include "train/plan_distributed.h"

#include "core/error.h"

namespace automodel::train {

int plan_distributed(const PlanOptions& options) {
  fail(Fault::kUsage, "{}: the distributed section cannot be planned yet", options.recipe.path);
}

}  // namespace automodel::train

// `automodel plan --only distributed`: the set-up that a `distributed:` section means on a number of ranks. Nothing
// else of the recipe is read, so it works for any model and at any size.
#pragma once

#include "train/commands.h"

namespace automodel::train {

// Prints the set-up, or with --format json one object, `{"status": "ok" | "error", ...}`; returns the exit code.
// Mistakes are an Error in text form, and part of the object in JSON.
int plan_distributed(const PlanOptions& options);

}  // namespace automodel::train

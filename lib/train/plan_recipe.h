// `automodel plan` of a whole recipe: what each kind of rank holds and sends in one optimizer step.
#pragma once

#include "train/commands.h"

namespace automodel::train {

// Prints the plan; returns the exit code. Throws Error with every mistake of the recipe.
int plan_recipe(const PlanOptions& options);

}  // namespace automodel::train

// `automodel plan` of a whole recipe: what each kind of rank holds and sends in one optimizer step.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/commands.h"
#include "train/plan_job.h"

namespace automodel::train {

// Prints the plan, or the answers to --why; returns the exit code. Mistakes of the recipe are an Error in text form,
// and part of the object in JSON (lib/plan/FORMAT.md).
int plan_recipe(const PlanOptions& options);

// A recipe whose step was planned.
struct PlannedRecipe {
  Job job;
  JobPlan plan;
};

// One --why KEY=VALUE: the recipe with that choice.
struct WhyAnswer {
  std::string key;        // the path in the recipe
  std::string value;      // as asked
  std::string forbidden;  // the report of everything that forbids it; empty: it is allowed
  std::string forbidden_json;
  std::optional<PlannedRecipe> changed;  // when it is allowed
};

// `gpus_per_node`: how the mesh is drawn; 0: unknown.
std::string plan_text(const PlannedRecipe& planned, int gpus_per_node);
std::string plan_json(const PlannedRecipe& planned, const std::vector<WhyAnswer>& answers);
// What forbids the choice, or what it changes.
std::string why_text(const PlannedRecipe& planned, const WhyAnswer& answer);

}  // namespace automodel::train

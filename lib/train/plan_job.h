// What a job will be: the plan of a recipe on a number of ranks.
#pragma once

#include <string>
#include <vector>

#include "plan/rank_plan.h"
#include "train/job.h"
#include "train/plan_batch.h"

namespace automodel::train {

struct KindPlan {
  plan::RankKind ranks;
  plan::RankPlan plan;
};

struct JobPlan {
  int64_t parameters = 0;
  Device device;  // of each rank; of its kind alone
  BatchPlan batch;
  double step_flops = 0;        // of all ranks, by the formulas of flops.h
  std::vector<KindPlan> kinds;  // they cover every rank once
  std::vector<std::string> warnings;

  // The kind that needs the most memory.
  const KindPlan& largest() const;
};

// Runs the step of each kind of rank on the meta device. `job` comes from prepare or prepare_from_config.
JobPlan plan_job(const Job& job);

// Error(kDevice) when the largest kind of rank needs more than `free_bytes`: both, by class, and what would make it
// fit.
void check_fits(const JobPlan& plan, int64_t free_bytes);

// "8 ranks need at most 1.93 GiB each for weights, ..." for the log.
std::string summary(const Job& job, const JobPlan& plan);

// Bytes for people: "812 B", "1.95 KiB", "81.3 MiB", "61.2 GiB".
std::string human_bytes(int64_t bytes);
// "rank 0", "each of ranks 0-7", "each of the 4 ranks with pp 1".
std::string ranks_text(const plan::RankKind& kind);

}  // namespace automodel::train

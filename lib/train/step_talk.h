// What the ranks tell each other in every step besides the engine's own calls. The trainer and the plan call the same
// functions, so the plan counts them.
#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace automodel::train {

struct StepCounts {
  int64_t labels = 0;
  int64_t tokens = 0;
};

// Before the step: sums over the ranks that share a global batch.
StepCounts sum_counts(StepCounts mine, comm::Communicator& ranks);
// After it, over the same ranks, where the utilisation is measured.
double sum_flops(double mine, comm::Communicator& ranks);
// After it: the signal that any rank of the job received; 0: none.
int any_signal(int mine, comm::Communicator& ranks);

}  // namespace automodel::train

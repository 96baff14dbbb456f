#include "train/step_talk.h"

namespace automodel::train {

StepCounts sum_counts(StepCounts mine, comm::Communicator& ranks) {
  int64_t counts[2] = {mine.labels, mine.tokens};
  ranks.all_reduce({counts, 2, DType::kI64}, comm::Reduce::kSum);
  return {counts[0], counts[1]};
}

double sum_flops(double mine, comm::Communicator& ranks) {
  return ranks.reduced(mine, comm::Reduce::kSum);
}

int any_signal(int mine, comm::Communicator& ranks) {
  return ranks.reduced(static_cast<int32_t>(mine), comm::Reduce::kMax);
}

}  // namespace automodel::train

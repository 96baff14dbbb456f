// The loss of a validation set, as training and `automodel eval` measure it.
#pragma once

#include <utility>

#include "comm/communicator.h"
#include "train/job.h"

namespace automodel::train {

// Sum of the token losses over their number, and that number, over every sample once; 0 when there is no label.
// Collective: the ranks share the samples.
std::pair<double, int64_t> evaluate(engine::Engine& engine, const Job& job, comm::Communicator& ranks,
                                    std::shared_ptr<const data::Dataset> dataset);

// Which weights `automodel eval` uses, filled into the engine: restore_from when the recipe gives it, else the
// pretrained weights, else the latest checkpoint, else the initial values. Returns a sentence that says which.
std::string fill_for_evaluation(engine::Engine& engine, Job& job);

}  // namespace automodel::train

// trainer_state.json: what a resumed run needs besides weights and moments.
#pragma once

#include <string>

#include "data/loader.h"
#include "optim/lr_schedule.h"
#include "train/step_scheduler.h"

namespace automodel::train {

struct TrainerState {
  StepScheduler::State at;   // the step and epoch that come next
  int64_t updates = 0;       // optimizer updates done, Adam's step count
  data::LoaderState loader;  // the microbatch that comes next
  int64_t seed = 0;
  int64_t global_batch_size = 0;
};

// `schedule` after at.step steps is stored too.
std::string to_json(const TrainerState& state, const optim::LrSchedule& schedule);

// Reads it back; the schedule takes over its part. `file` names the file in errors, which are Error(kCheckpoint).
// Sentences about differences are appended to `warnings`.
TrainerState read_trainer_state(const std::string& text, const std::string& file, optim::LrSchedule& schedule,
                                std::vector<std::string>& warnings);

}  // namespace automodel::train

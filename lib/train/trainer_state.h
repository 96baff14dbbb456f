// trainer_state.json: what a resumed run needs besides weights and moments.
#pragma once

#include <string>
#include <vector>

#include "data/loader.h"
#include "optim/lr_schedule.h"
#include "train/step_scheduler.h"

namespace automodel::train {

struct TrainerState {
  StepScheduler::State at;        // the step and epoch that come next
  int64_t updates = 0;            // optimizer updates done, Adam's step count
  data::LoaderState loader;       // the microbatch that comes next
  int64_t samples_per_batch = 0;  // of a microbatch, over all ranks; 0: not known, taken to be what it is now
  int64_t seed = 0;
  int64_t global_batch_size = 0;
};

// `schedule` after at.step steps is stored too.
std::string to_json(const TrainerState& state, const optim::LrSchedule& schedule);

// Reads it back; the schedule takes over its part. `file` names the file in errors, which are Error(kCheckpoint).
// Sentences about differences are appended to `warnings`.
TrainerState read_trainer_state(const std::string& text, const std::string& file, optim::LrSchedule& schedule,
                                std::vector<std::string>& warnings);

// Where a loader whose microbatches have `samples_per_batch` samples over all ranks goes on, so that the samples that
// come next are those of `state`. When a microbatch ends elsewhere it begins again and `warnings` gains a sentence.
data::LoaderState loader_place(const TrainerState& state, int64_t samples_per_batch,
                               std::vector<std::string>& warnings);

}  // namespace automodel::train

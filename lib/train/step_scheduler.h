// When a run validates, saves and ends: pure arithmetic on step numbers. Steps count from 0 and a step's decision is
// taken after its update.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/schema.h"

namespace automodel::train {

// The `step_scheduler:` section.
struct StepSchedulerConfig {
  int64_t global_batch_size = 32;  // samples of one update, over all data-parallel ranks
  int64_t local_batch_size = 1;    // samples of one microbatch on one rank
  std::optional<int64_t> num_epochs = 10;
  std::optional<int64_t> max_steps;
  std::optional<int64_t> ckpt_every_steps = 100;
  bool save_checkpoint_every_epoch = true;
  std::optional<int64_t> val_every_steps;
  int64_t log_remote_every_steps = 1;
  int64_t start_step = 0;
  int64_t start_epoch = 0;
  std::optional<std::vector<std::string>> preemption_signal = {{"SIGTERM"}};
};
void describe(config::Fields<StepSchedulerConfig>&);

// The numbers of the signals that end a run after a checkpoint. Names with or without SIG, in any case, or numbers.
std::vector<int> preemption_signals(const StepSchedulerConfig& config);

// Global batch sizes around `global` that are a multiple of local * dp, the nearest first; at most two.
std::vector<int64_t> valid_global_batches(int64_t global, int64_t local, int64_t dp_size);

// The same as a hint: "for example global_batch_size: 64 or 48".
std::string global_batch_hint(int64_t global, int64_t local, int64_t dp_size);

// Microbatches of one update: global / (local * dp). Nothing when it does not divide.
std::optional<int64_t> accumulation_steps(int64_t global, int64_t local, int64_t dp_size);

struct StepSchedulerInputs {
  int64_t dp_size = 1;
  std::optional<int64_t> batches_per_epoch;  // microbatches of one rank; nothing: a stream without end
};

class StepScheduler {
 public:
  // Throws Error(kConfig) when the batch sizes do not divide, or a stream has no max_steps.
  StepScheduler(const StepSchedulerConfig& config, const StepSchedulerInputs& inputs);

  int64_t accumulation() const { return accumulation_; }
  // Updates of one epoch; the last one may have fewer microbatches. Nothing for a stream.
  std::optional<int64_t> steps_per_epoch() const { return steps_per_epoch_; }
  int64_t max_steps() const { return max_steps_; }
  int64_t num_epochs() const { return num_epochs_; }
  // How many steps the run has, for learning-rate schedules and progress.
  int64_t total_steps() const;

  // Microbatches of a step.
  int64_t microbatches(int64_t step) const;

  struct Decision {
    bool last_batch = false;  // of its epoch
    bool last_step = false;   // of the run
    bool checkpoint = false;
    bool validate = false;
  };
  // `signalled`: some rank was told to stop. The run then saves and ends without a validation.
  Decision decide(int64_t step, int64_t epoch, bool signalled) const;

  // What a checkpoint of this step keeps.
  struct State {
    int64_t step = 0;  // the next one
    int64_t epoch = 0;

    bool operator==(const State&) const = default;
  };
  State state_after(int64_t step, int64_t epoch) const;
  // Whether anything is left to do.
  bool finished(const State& state) const;

 private:
  int64_t accumulation_ = 1;
  std::optional<int64_t> batches_per_epoch_;
  std::optional<int64_t> steps_per_epoch_;
  int64_t max_steps_ = 0;
  int64_t num_epochs_ = 0;
  int64_t ckpt_every_ = 0;
  std::optional<int64_t> val_every_;
  bool save_every_epoch_ = true;
};

}  // namespace automodel::train

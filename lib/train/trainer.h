// The training loop of one rank.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/ranks.h"
#include "comm/world.h"
#include "parallel/job_groups.h"
#include "train/device.h"
#include "train/job.h"
#include "train/metrics.h"

namespace automodel::train {

// The ranks of a world as the checkpoint room takes them. `ranks` outlives the result.
checkpoint::Ranks checkpoint_ranks(comm::Communicator& ranks);

class Trainer {
 public:
  // `job` was prepared for the size of `world`; both outlive the trainer. Allocates, and fills the weights: from the
  // checkpoint to resume from, the pretrained folder, or the seed.
  Trainer(Job& job, comm::World& world);
  ~Trainer();

  // Until the last step or a signal. `signal` is asked once per step for a signal that this rank received (0: none);
  // all ranks stop after the same step, with a checkpoint. Returns the signal that ended the run, or 0.
  int run(const std::function<int()>& signal);

  engine::Engine& engine() { return engine_; }

 private:
  void fill_weights();
  void resume(const checkpoint::ResumePoint& point);
  TrainingRecord step();
  double utilisation(const std::vector<data::Batch>& batches, double seconds);
  std::vector<std::pair<std::string, double>> validate_all(int64_t step, int64_t epoch);
  void save(int64_t step, int64_t epoch, double train_loss,
            const std::vector<std::pair<std::string, double>>& val_losses, bool last);
  void print(const std::string& line);

  Job& job_;
  comm::World& world_;
  RankDevice device_;
  parallel::JobGroups groups_;
  engine::Engine engine_;
  data::Loader loader_;
  StepScheduler::State at_;
  double peak_flops_ = 0;  // of one rank; 0: not known
  JsonlFile training_log_;
  std::unique_ptr<ProgressBar> bar_;
};

}  // namespace automodel::train

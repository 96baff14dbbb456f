// A training job made ready: everything that a recipe names is opened, checked and put together, and nothing large is
// allocated. Done before ranks are started, and by every rank.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/resume.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "engine/engine.h"
#include "optim/lr_schedule.h"
#include "parallel/job_groups.h"
#include "train/model_source.h"
#include "train/recipe_config.h"
#include "train/step_scheduler.h"

namespace automodel::train {

struct Job {
  LoadedRecipe recipe;
  int world_size = 1;
  std::optional<distributed::DistributedSetup> setup;  // of a training job
  ModelSource source;
  distributed::Precision precision;
  std::shared_ptr<const data::Tokenizer> tokenizer;  // of the training data; null when it has none
  std::shared_ptr<const data::Dataset> dataset;
  std::map<std::string, std::shared_ptr<const data::Dataset>> validation;
  int64_t batches_per_epoch = 0;  // of one rank
  std::optional<StepScheduler> scheduler;
  std::optional<optim::LrSchedule> schedule;
  checkpoint::Signature signature;
  checkpoint::ResumeResult resume;
  std::vector<std::string> warnings;  // plain sentences for the log

  const RecipeConfig& config() const { return recipe.config; }
};

// Throws with every mistake of the recipe that can be known now, each naming its file, key and remedy.
// `for_training` false (evaluation): no scheduler, no resuming; the training dataset is not opened.
Job prepare(const RecipeSource& source, int world_size, bool for_training);

// The part of prepare() for training that a config.json is enough for: weights, tokenizers, data and checkpoints are
// left alone. Mistakes of the recipe go to `report`, and the result is usable when it stays empty; mistakes of the
// model's config are thrown.
Job prepare_from_config(const RecipeSource& source, int world_size, config::Report& report);

engine::EngineOptions engine_options(const Job& job);

// How the ranks of a training job share the work beyond its mesh.
parallel::SharingOptions sharing_options(const Job& job);

// Samples of one batch of a rank.
int64_t local_batch(const Job& job, const data::DataloaderConfig& dataloader);

// The loader of a dataset on one of the data-parallel ranks.
data::LoaderOptions loader_options(const Job& job, const data::DataloaderConfig& dataloader, int data_rank,
                                   bool training);

// tokens -> ids as a prompt: with the tokenizer's special tokens in front, without those at the end.
std::vector<int32_t> encode_prompt(const data::Tokenizer& tokenizer, const std::string& text);

}  // namespace automodel::train

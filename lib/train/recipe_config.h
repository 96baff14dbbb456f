// A recipe: every section of the YAML file in one struct. Each section belongs to the room that acts on it; this file
// only puts them together and checks them against each other.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/report.h"
#include "config/schema.h"
#include "data/data_config.h"
#include "distributed/distributed_section.h"
#include "optim/lr_schedule.h"
#include "optim/optimizer_config.h"
#include "train/checkpoint_section.h"
#include "train/commands.h"
#include "train/device_choice.h"
#include "train/loss_section.h"
#include "train/model_section.h"
#include "train/run_sections.h"
#include "train/step_scheduler.h"

namespace automodel::train {

struct RecipeConfig {
  RecipeKind recipe;
  StepSchedulerConfig step_scheduler;
  std::optional<int64_t> seed;  // see base_seed()
  RngConfig rng;
  DistEnvConfig dist_env;
  ModelSection model;
  CheckpointConfig checkpoint;
  distributed::DistributedSection distributed;
  LossConfig loss_fn;
  optim::OptimizerConfig optimizer;
  std::optional<optim::LrScheduleConfig> lr_scheduler;
  data::DatasetConfig dataset;
  std::map<std::string, data::DatasetConfig> validation_datasets;  // by name; `validation_dataset` is "default"
  data::DataloaderConfig dataloader;
  data::DataloaderConfig validation_dataloader;
  PackedSequenceConfig packed_sequence;
  std::optional<data::TokenizerConfig> tokenizer;  // for datasets that name none
  ClipGradNormConfig clip_grad_norm;
  MfuConfig mfu;
  DeviceChoice device = DeviceChoice::kAuto;
  LaunchConfig launch;
  ContextParallelConfig context_parallel;
  std::optional<SampleConfig> sample;

  // `seed`, else `rng.seed`, else 42.
  int64_t base_seed() const { return seed.value_or(rng.seed.value_or(42)); }
};
void describe(config::Fields<RecipeConfig>&);

// Where a dataset's tokenizer is: its own, else the recipe's `tokenizer`, else the model's folder. Nothing: nowhere.
std::optional<data::TokenizerConfig> tokenizer_for(const RecipeConfig& recipe, const data::DatasetConfig& dataset);

// A recipe and the tree it was read from, in which every value knows where it was written.
struct LoadedRecipe {
  RecipeConfig config;
  config::Node node;
  std::vector<config::Problem> notes;  // accepted keys that have no effect
  bool distributed_reads = false;      // the section has no mistake, even if it asks for what cannot be trained yet

  // The resolved recipe as YAML, every key with its value; reading it gives the same recipe. Secrets are masked.
  std::string yaml(bool with_origins = false) const;
  // The same as a tree.
  config::Node resolved() const;
};

// The file with the overrides applied, of which nothing is read yet: a mapping, or null when the file is empty.
// Mistakes in the overrides go to `report`. A file that is missing, no YAML or no mapping is an Error.
config::Node load_tree(const RecipeSource& source, config::Report& report);
// Reads the file and applies the overrides. Mistakes go to `report`; the result is usable only when it is empty.
// Throws as load_tree.
LoadedRecipe load_recipe(const RecipeSource& source, config::Report& report);
// The same; throws Error(kConfig) with every mistake.
LoadedRecipe load_recipe(const RecipeSource& source);
// The same from a tree.
LoadedRecipe read_recipe(config::Node node, config::Report& report);

// What can only be checked when the number of ranks is known: the mesh, and the batch sizes on it. The set-up, unless
// there are mistakes in the mesh or, according to `report`, in the sections that it takes.
std::optional<distributed::DistributedSetup> check_against_world(const LoadedRecipe& recipe, int64_t world_size,
                                                                 config::Report& report);

}  // namespace automodel::train

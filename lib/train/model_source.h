// Where a model comes from: a Hugging Face folder, or a config alone.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/hf_model_dir.h"
#include "distributed/strategy.h"
#include "models/registry.h"
#include "train/model_section.h"

namespace automodel::train {

struct ModelSource {
  std::string id;                           // as the user named it; empty for a config that stands in the recipe
  std::string config_json;                  // the merged config.json, for checkpoints
  std::unique_ptr<models::CausalLM> model;  // names and shapes, no memory
  // The folder the weights are read from; empty for a model that starts from initial values.
  std::optional<checkpoint::HfModelDir> weights;
  DType storage = DType::kBF16;  // the type in which checkpoints store the weights
  // The small files that belong beside the weights of a checkpoint (tokenizer, generation config), by name.
  std::map<std::string, std::string> companions;
};

enum class ModelParts {
  kAll,
  kConfig  // weights need not be there, and are not opened
};

// Reads configs and opens weights; nothing is allocated. Throws Error(kCheckpoint) or Error(kConfig) with everything
// that is wrong.
ModelSource open_model(const ModelSection& section, ModelParts parts = ModelParts::kAll);

// The same; what is wrong with the config goes to `report`, and then `model` is null.
ModelSource open_model(const ModelSection& section, ModelParts parts, config::Report& report);

// Makes the model anew for tensor-parallel ranks, as the strategy's tp_plan says. What is wrong with the plan goes to
// `problems`, at the keys of a `distributed` section, and then nothing is cut.
void cut_model(ModelSource& source, const distributed::StrategyConfig& strategy, config::Problems& problems);

// A model folder, a checkpoint, a run's checkpoint directory (its LATEST), or a hub id in the local cache.
ModelSource open_folder(const std::string& name);

}  // namespace automodel::train

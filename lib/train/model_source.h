// Where a model comes from: a Hugging Face folder, or a config alone.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/hf_model_dir.h"
#include "config/node.h"
#include "models/registry.h"

namespace automodel::train {

struct ModelSource {
  std::string id;           // as the user named it; the model type for a config written in the recipe
  config::Node config;      // the merged config.json
  std::string config_json;  // the same as text, for checkpoints
  std::unique_ptr<models::CausalLM> model;
  // The folder the weights are read from; empty for a model that starts from initial values.
  std::optional<checkpoint::HfModelDir> weights;
  DType storage = DType::kBF16;  // the type in which checkpoints store the weights
  // The small files that belong beside the weights of a checkpoint (tokenizer, generation config), when there is a
  // folder.
  std::map<std::string, std::string> companions;
};

// A folder or a cached hub id with its weights. `overrides` is a mapping of config.json fields (or null); `dtype` empty
// means that of the folder. Throws Error(kCheckpoint) or Error(kConfig) with everything that is wrong.
ModelSource from_pretrained(const checkpoint::ModelLocation& location, const config::Node& overrides,
                            std::optional<DType> dtype);

// A config: a mapping of config.json fields that names its model_type, or a folder/hub id/file (`location`) with fields
// on top. `dtype` empty means bf16.
ModelSource from_config(const std::string& location, const config::Node& fields, std::optional<DType> dtype);

}  // namespace automodel::train

// The `checkpoint:` section.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/schema.h"

namespace automodel::train {

// When a checkpoint also gets the folder that transformers reads.
enum class Consolidate { kNever, kFinal, kEvery };
void describe(config::Names<Consolidate>&);

struct CheckpointConfig {
  bool enabled = true;  // false: nothing is saved and nothing is resumed
  std::string checkpoint_dir = "checkpoints/";
  std::string model_save_format = "safetensors";
  Consolidate save_consolidated = Consolidate::kFinal;
  std::optional<std::string> restore_from;  // null: continue by itself; LATEST; a pointer, a name or a path
  std::string best_metric_key = "default";  // the validation set that decides LOWEST_VAL
  std::optional<int64_t> max_recent_checkpoints;
};
void describe(config::Fields<CheckpointConfig>&);

}  // namespace automodel::train

// Saves a checkpoint with all ranks writing their own parts in place; FORMAT.md describes what lies on disk and why a
// crash at any moment leaves the earlier checkpoints and the LATEST pointer usable.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/directory.h"
#include "checkpoint/ranks.h"
#include "checkpoint/region.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/signature.h"
#include "tensor/allocator.h"

namespace automodel::checkpoint {

struct WriterOptions {
  fs::path root;
  std::optional<int64_t> max_recent_checkpoints = std::nullopt;
  std::string best_metric_key = "default";
  uint64_t max_shard_bytes = uint64_t{5} << 30;  // a larger model is split into model-0000i-of-0000N.safetensors
  bool symlinks = true;                          // false: pointers are text files
  std::function<void(const char* stage)> on_stage = [](const char*) {};  // rank 0, as each stage begins
};

struct SaveSlice {
  Region region;
  DType dtype = DType::kF32;     // of the source; converted to the stored type
  const void* source = nullptr;  // count_of(region) elements
  Allocator* device = nullptr;   // the source is its memory; null: of the host
};

struct TensorGroup {
  // Every tensor with its stored type and stored global shape, in the same order on every rank.
  std::vector<TensorSpec> tensors;
  // What this rank writes. Over all ranks the slices cover every element exactly once.
  std::vector<SaveSlice> slices;
};

struct SaveRequest {
  int64_t epoch = 0;
  int64_t step = 0;
  TensorGroup model;
  TensorGroup optimizer;                                   // exp_avg/<name>, exp_avg_sq/<name>, master/<name>, ...
  std::map<std::string, std::string> hf_files;             // name -> content: config.json, generation config, tokenizer
  std::string recipe;                                      // YAML, merged with the overrides
  std::string trainer_state;                               // JSON
  std::optional<double> train_loss;                        // of this step
  std::vector<std::pair<std::string, double>> val_losses;  // validation set -> loss
  Signature signature;
  bool consolidated = false;  // also offer the Hugging Face files under model/consolidated (save_consolidated)
};

class CheckpointWriter {
 public:
  explicit CheckpointWriter(WriterOptions options, Ranks ranks = {});

  // Collective. Returns the folder of the published checkpoint. hf_files, recipe, trainer_state and losses of rank 0
  // count. Throws on every rank when any rank fails: Error(kIo) for a full or read-only disk, Error(kCheckpoint) when
  // the checkpoint exists already. The folder then stays marked incomplete, and everything published before is
  // untouched.
  fs::path save(const SaveRequest& request);

 private:
  struct Plan;

  Plan plan(const SaveRequest& request) const;
  void begin(const SaveRequest& request, const Plan& plan);
  void finish(const SaveRequest& request, const Plan& plan);
  void publish(const SaveRequest& request, const Plan& plan);

  WriterOptions options_;
  Ranks ranks_;
};

// Which validation loss decides LOWEST_VAL: the only one, else the one called `key`; nothing when there is none of that
// name among several.
std::optional<double> deciding_loss(const std::vector<std::pair<std::string, double>>& losses, const std::string& key);

// The text of losses.json, and the validation loss read back from one (`key`, "val_loss", "default", in this order).
std::string losses_text(std::optional<double> train_loss,
                        const std::vector<std::pair<std::string, double>>& val_losses);
std::optional<double> read_val_loss(const fs::path& losses_file, const std::string& key);

}  // namespace automodel::checkpoint

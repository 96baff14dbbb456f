// A Hugging Face model folder: config.json, the weights in one or many safetensors files, and the small files beside
// them. Everything wrong with the folder is Error(kCheckpoint) that names the file and says what to do.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/tensor_set.h"

namespace automodel::checkpoint {

struct ModelLocation {
  std::string name_or_path;  // a folder, or a hub id ("org/name") whose files are in the local hub cache
  std::string revision = "main";
  fs::path cache_dir =
      {};  // the hub cache; empty: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/...
};

// The folder of a model. Nothing is downloaded: a hub id is looked up in the cache
// (models--org--name/snapshots/REVISION).
fs::path find_model_dir(const ModelLocation& location);

class HfModelDir {
 public:
  enum class Weights { kRequired, kIgnored };

  // Reads config.json and, unless weights are ignored, opens and checks every weight file.
  explicit HfModelDir(const fs::path& folder, Weights weights = Weights::kRequired);

  const fs::path& folder() const { return folder_; }
  const std::string& config_text() const { return config_text_; }
  // Empty when weights are ignored.
  const TensorSet& tensors() const { return tensors_; }

  // What `torch_dtype: auto` means: config.json's dtype (or torch_dtype), else the type of most floating weights.
  std::optional<DType> torch_dtype() const;

  // The files to carry into a checkpoint of this model, by name: generation config, tokenizer and chat template.
  std::map<std::string, std::string> companion_files() const;

 private:
  void open_weights();
  void open_shards(const fs::path& index);

  fs::path folder_;
  std::string config_text_;
  TensorSet tensors_;
};

}  // namespace automodel::checkpoint

#include "train/checkpoint_section.h"

namespace automodel::train {

void describe(config::Names<Consolidate>& n) {
  n("false", Consolidate::kNever, "never")("final", Consolidate::kFinal, "at the end of the run");
  n("every", Consolidate::kEvery, "at each checkpoint")("true", Consolidate::kEvery)("none", Consolidate::kNever);
}

void describe(config::Fields<CheckpointConfig>& f) {
  using C = CheckpointConfig;
  f.doc("Saving and resuming.");
  f("enabled", &C::enabled, "false: nothing is saved and nothing is resumed; logs are still written.");
  f("checkpoint_dir", &C::checkpoint_dir, "Folder of the run's logs and checkpoints.")
      .must([](const std::string& dir) { return dir.find("://") == std::string::npos; },
            "must be a local folder; remote storage is not supported");
  f("model_save_format", &C::model_save_format, "Format of the weights.")
      .must([](const std::string& format) { return format == "safetensors"; },
            "must be safetensors; torch_save is not supported");
  f("save_consolidated", &C::save_consolidated, "When a checkpoint also gets a folder that transformers reads.");
  f("restore_from", &C::restore_from,
    "What to continue from: LATEST, LOWEST_VAL, the name of a checkpoint, or a path. Default: the latest one, if any.");
  f("best_metric_key", &C::best_metric_key, "The validation set whose loss decides LOWEST_VAL.");
  f("max_recent_checkpoints", &C::max_recent_checkpoints, "How many checkpoints are kept; null: all.").at_least(1);
  f.key("is_async").refused("checkpoints are written while training waits; leave is_async out", {"false"});
  f.key("wait_for_staging").no_effect("checkpoints are written while training waits");
  f.key("cpu_offload").no_effect("checkpoints are written from where the weights lie");
  f.key("dequantize_base_checkpoint").refused("quantised checkpoints are not supported yet; leave it out", {"false"});
  for (const char* key : {"consolidation_timeout_minutes", "single_rank_consolidation", "staging_dir"}) {
    f.key(key).no_effect("all ranks write the files of transformers directly");
  }
  f.key("v4_compatible").no_effect("config.json is kept as the model came with it");
  f.key("diffusers_compatible").refused("only language models are supported; leave it out", {"false"});
  f.key("allow_legacy_pickle_restore").refused("pickle files are never read; leave it out", {"false"});
  f.key("original_model_root_dir").no_effect("model.pretrained_model_name_or_path says where the model is");
  f.key("model_cache_dir").no_effect("model.cache_dir says where downloads are");
  f.key("skip_task_head_prefixes_for_base_model").refused("task heads are not supported yet; leave it out");
}

}  // namespace automodel::train

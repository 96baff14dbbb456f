// The `model:` section: where a model's config and weights come from.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "config/schema.h"
#include "core/dtype.h"

namespace automodel::train {

// Kernels of the reference's GPU backends. The names are checked; one implementation does the work of all of them.
struct BackendConfig {
  std::optional<std::string> attn;
  std::optional<std::string> linear;
  std::optional<std::string> rms_norm;
  std::optional<std::string> rope;
  std::optional<std::string> experts;
  std::optional<std::string> dispatcher;
};
void describe(config::Fields<BackendConfig>&);

struct ModelCommon {
  std::optional<DType> torch_dtype;  // null ("auto"): the checkpoint's type; bfloat16 for a new model
  std::optional<BackendConfig> backend;
  std::string cache_dir;
  std::string revision = "main";
  config::Node overrides = config::Node::map();  // fields of config.json that the recipe changes
};

// A model folder or hub id with weights.
struct PretrainedModel : ModelCommon {
  std::string pretrained_model_name_or_path;
};
void describe(config::Fields<PretrainedModel>&);

// `model.config` as a mapping: another model's config.json with changes, or all fields in place.
struct ModelConfigFields {
  std::string target;  // empty or "inline"; AutoConfig.from_pretrained; or the config class of a family
  std::optional<std::string> pretrained_model_name_or_path;  // null: the fields are the whole config
  config::Node fields = config::Node::map();
};
void describe(config::Fields<ModelConfigFields>&);

// A config without weights (or with, when load_base_model is true).
struct ConfiguredModel : ModelCommon {
  std::variant<std::string, ModelConfigFields> config;  // a folder, a config.json, a hub id; or a mapping
  bool load_base_model = false;
};
void describe(config::Fields<ConfiguredModel>&);

// Models that are known by name and refused.
struct UnsupportedModel {
  std::string target;
};
void describe(config::Fields<UnsupportedModel>&);

using ModelSection = std::variant<PretrainedModel, ConfiguredModel, UnsupportedModel>;

// Folder, file or hub id that the config comes from; empty when it stands in the recipe.
std::string config_source(const ModelSection& model);
// The same for the weights; empty: the weights are new.
std::string weights_source(const ModelSection& model);
// The key of the recipe that names the config.
std::string source_key(const ModelSection& model);
const ModelCommon& common_of(const ModelSection& model);

// The type of the model, given the type its checkpoint says (nothing for a new model).
DType model_dtype(const ModelSection& model, std::optional<DType> checkpoint_dtype);

// The mapping that `model.config` is, without its own keys; null when it is none.
const config::Node* inline_fields(const ModelSection& model);

// The fields of config.json that the recipe sets: a whole config when config_source() is empty, else changes to that
// one.
config::Node config_changes(const ModelSection& model);

}  // namespace automodel::train

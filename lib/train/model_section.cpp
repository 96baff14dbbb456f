#include "train/model_section.h"

#include <fmt/core.h>

#include "core/error.h"
#include "train/moved_keywords.h"

namespace automodel::train {

namespace {

constexpr const char* kOneWay = "each operation has one implementation here";

struct ConfigClass {
  const char* name;
  const char* model_type;
};
constexpr ConfigClass kConfigClasses[] = {
    {"transformers.LlamaConfig", "llama"}, {"transformers.MistralConfig", "mistral"},
    {"transformers.Qwen2Config", "qwen2"}, {"transformers.Qwen3Config", "qwen3"},
    {"transformers.GPT2Config", "gpt2"},
};

constexpr const char* kUnsupportedModels[] = {
    "nemo_automodel.NeMoAutoModelForSequenceClassification.from_pretrained",
    "nemo_automodel.NeMoAutoModelForSeq2SeqLM.from_pretrained",
    "nemo_automodel.NeMoAutoModelForImageTextToText.from_pretrained",
    "nemo_automodel.NeMoAutoModelForMultimodalLM.from_pretrained",
    "nemo_automodel.NeMoAutoModelForTokenClassification.from_pretrained",
    "nemo_automodel.components.models.gpt2.build_gpt2_model",
};

bool is_storage(const std::optional<DType>& dtype) {
  return !dtype || *dtype == DType::kF32 || *dtype == DType::kBF16;
}

bool is_false(const config::Node& node) {
  return config::is_off(node) || (node.is_int() && node.as_int() == 0);
}

template <class T>
void describe_common(config::Fields<T>& f) {
  f("torch_dtype", &T::torch_dtype,
    "Type in which checkpoints store the weights; auto: the checkpoint's, bfloat16 for a new model. Training always "
    "keeps float32 weights.")
      .alias("dtype")
      .none_word("auto")
      .must(is_storage, "must be auto, float32 or bfloat16");
  f("backend", &T::backend, "Kernel choices of the reference; one implementation does the work of all of them.");
  f("cache_dir", &T::cache_dir, "Cache of hub downloads.");
  f("revision", &T::revision, "Revision of a hub id.");
  for (const char* key : {"attn_implementation", "use_liger_kernel", "use_sdpa_patching", "sdpa_method", "force_hf"}) {
    f.key(key).no_effect(kOneWay);
  }
  f.key("trust_remote_code").no_effect("code that comes with a model is never run");
  f.key("output_hidden_states").no_effect("every loss gets the hidden states");
  f.key("num_labels").refused("classification heads are not supported yet; leave it out");
  f.key("freeze_config").refused("freezing parts of a model is not supported yet; leave it out");
  f.key("num_nextn_predict_layers").refused("multi-token prediction is not supported yet; leave it out", is_false);
  for (const char* key : {"mtp_loss_scaling_factor", "mtp_use_repeated_layer"}) {
    f.key(key).no_effect("there is no multi-token prediction");
  }
  f.key("quantization_config").refused("quantised models are not supported yet; leave it out");
  for (const MovedKeyword& moved : moved_keywords()) f.key(moved.name).renamed_to(moved.now);
  f.allow_unknown(&T::overrides);
}

}  // namespace

void describe(config::Fields<BackendConfig>& f) {
  using B = BackendConfig;
  f.doc("Kernel choices of the reference.");
  f.target({"nemo_automodel.components.models.common.BackendConfig"});
  f("attn", &B::attn, "Attention.")
      .one_of({"te", "sdpa", "flex", "eager", "tilelang", "cudnn", "magi", "ffpa", "flash_attention_2"})
      .no_effect(kOneWay);
  f("linear", &B::linear, "Matrix products.").one_of({"te", "torch", "quack"}).no_effect(kOneWay);
  f("rms_norm", &B::rms_norm, "Norms.").one_of({"torch_fp32", "torch", "te", "quack"}).no_effect(kOneWay);
  f("rope", &B::rope, "Rotations.").one_of({"torch", "quack"}).no_effect(kOneWay);
  f("experts", &B::experts, "Experts.").one_of({"torch_mm", "torch", "te", "gmm", "torch_mm_mxfp8"}).no_effect(kOneWay);
  f("dispatcher", &B::dispatcher, "Exchange of tokens between experts.")
      .one_of({"torch", "deepep", "hybridep", "uccl_ep", "mok"})
      .no_effect("tokens are always exchanged all to all");
  for (const char* key :
       {"dispatcher_num_sms", "dispatcher_share_token_dispatcher", "dispatcher_async_dispatch", "mok"}) {
    f.key(key).no_effect("tokens are always exchanged all to all");
  }
  f.key("fake_balanced_gate").refused("the router always chooses", config::is_off);
  f.key("fake_gate_noise").refused("the router's logits get no noise", {"0", "0.0"});
  f.key("gate_precision").no_effect("the router's logits are float32 in any case");
  for (const char* key : {"rope_fusion", "enable_fsdp_optimizations", "compile_attn", "cuda_graph"}) {
    f.key(key).no_effect(kOneWay);
  }
  f.key("enable_hf_state_dict_adapter").no_effect("weights are always read and written with their Hugging Face names");
  f.key("te_fp8").refused("fp8 is not supported yet; leave it out", config::is_off);
}

void describe(config::Fields<PretrainedModel>& f) {
  f.doc("A model with its weights. Keys that are not listed change fields of its config.json.");
  f.target({"nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained"});
  f.target({"transformers.AutoModelForCausalLM.from_pretrained"});
  f("pretrained_model_name_or_path", &PretrainedModel::pretrained_model_name_or_path,
    "Model folder, or hub id in the local cache.")
      .required();
  describe_common(f);
  f.key("load_base_model").no_effect("from_pretrained always loads the weights");
}

void describe(config::Fields<ModelConfigFields>& f) {
  f.doc("A config.json: another model's with changes, or all of its fields in place.");
  f.target({"inline"});
  f.target({"transformers.AutoConfig.from_pretrained"});
  for (const ConfigClass& known : kConfigClasses) {
    f.target({known.name});
    f.target({fmt::format("{}.from_pretrained", known.name)});
  }
  f.keep_target(&ModelConfigFields::target);
  f("pretrained_model_name_or_path", &ModelConfigFields::pretrained_model_name_or_path,
    "Model folder, config.json, or hub id in the local cache.")
      .alias("name_or_path");
  f.key("trust_remote_code").no_effect("code that comes with a model is never run");
  f.allow_unknown(&ModelConfigFields::fields);
  f.check([](const ModelConfigFields& c, config::Problems& problems) {
    const bool elsewhere = c.pretrained_model_name_or_path.has_value();
    const bool family_named = !c.target.empty() && c.target != "inline";
    if (!elsewhere && c.target.ends_with("from_pretrained")) {
      problems.add("", "from_pretrained needs pretrained_model_name_or_path", "name a model folder");
    } else if (!elsewhere && !family_named && !c.fields.find("model_type")) {
      problems.add("", "needs model_type, or pretrained_model_name_or_path to start from",
                   "for example model_type: llama");
    }
  });
}

void describe(config::Fields<ConfiguredModel>& f) {
  f.doc("A model made from a config, with new weights. Keys that are not listed change fields of the config.");
  f.target({"nemo_automodel.NeMoAutoModelForCausalLM.from_config"});
  f.target({"transformers.AutoModelForCausalLM.from_config"});
  f("config", &ConfiguredModel::config, "Model folder, config.json or hub id; or a mapping.").required();
  f("load_base_model", &ConfiguredModel::load_base_model, "Load the weights that lie beside the config.");
  describe_common(f);
  f.check([](const ConfiguredModel& c, config::Problems& problems) {
    if (c.load_base_model && weights_source(c).empty()) {
      problems.add("load_base_model", "load_base_model is true, but the config stands in the recipe: no weights",
                   "name a model folder in config.pretrained_model_name_or_path");
    }
  });
}

void describe(config::Fields<UnsupportedModel>& f) {
  f.doc("Models that are known but not supported yet.");
  for (const char* name : kUnsupportedModels) f.target({name});
  f.keep_target(&UnsupportedModel::target);
  f.allow_unknown();
  f.check([](const UnsupportedModel& c, config::Problems& problems) {
    problems.add("_target_", fmt::format("{} is not supported yet", c.target),
                 "use NeMoAutoModelForCausalLM.from_pretrained or NeMoAutoModelForCausalLM.from_config");
  });
}

std::string config_source(const ModelSection& model) {
  if (const auto* pretrained = std::get_if<PretrainedModel>(&model)) return pretrained->pretrained_model_name_or_path;
  const auto* configured = std::get_if<ConfiguredModel>(&model);
  if (!configured) return "";
  if (const auto* source = std::get_if<std::string>(&configured->config)) return *source;
  return std::get<ModelConfigFields>(configured->config).pretrained_model_name_or_path.value_or("");
}

std::string source_key(const ModelSection& model) {
  if (std::holds_alternative<PretrainedModel>(model)) return "model.pretrained_model_name_or_path";
  return inline_fields(model) ? "model.config.pretrained_model_name_or_path" : "model.config";
}

std::string weights_source(const ModelSection& model) {
  const auto* configured = std::get_if<ConfiguredModel>(&model);
  return configured && !configured->load_base_model ? "" : config_source(model);
}

const ModelCommon& common_of(const ModelSection& model) {
  if (const auto* pretrained = std::get_if<PretrainedModel>(&model)) return *pretrained;
  if (const auto* configured = std::get_if<ConfiguredModel>(&model)) return *configured;
  fail(Fault::kBug, "model: {} is not supported", std::get<UnsupportedModel>(model).target);
}

DType model_dtype(const ModelSection& model, std::optional<DType> checkpoint_dtype) {
  if (common_of(model).torch_dtype) return *common_of(model).torch_dtype;
  return checkpoint_dtype.value_or(DType::kBF16);
}

const config::Node* inline_fields(const ModelSection& model) {
  const auto* configured = std::get_if<ConfiguredModel>(&model);
  const auto* mapping = configured ? std::get_if<ModelConfigFields>(&configured->config) : nullptr;
  return mapping ? &mapping->fields : nullptr;
}

config::Node config_changes(const ModelSection& model) {
  config::Node changes = config::Node::map();
  const auto put = [&](const config::Node& fields) {
    for (const config::Entry& entry : fields.entries()) {
      if (entry.key.starts_with("_")) continue;  // comments, and attributes of Python objects
      changes.set(entry.key, entry.value, entry.key_origin);
    }
  };
  const auto* configured = std::get_if<ConfiguredModel>(&model);
  const auto* mapping = configured ? std::get_if<ModelConfigFields>(&configured->config) : nullptr;
  if (mapping) {
    changes.set_origin(mapping->fields.origin());
    for (const ConfigClass& known : kConfigClasses) {
      if (mapping->target == known.name) changes.set("model_type", config::Node::string(known.model_type));
    }
    put(mapping->fields);
  }
  put(common_of(model).overrides);
  return changes;
}

}  // namespace automodel::train

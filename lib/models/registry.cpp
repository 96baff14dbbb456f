#include "models/registry.h"

#include "config/text.h"
#include "core/error.h"

namespace automodel::models {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> list{&kGpt2, &kLlama, &kMistral, &kQwen2, &kQwen3};
  return list;
}

namespace {

std::string where(const config::Node& node) {
  return node.origin().source != nullptr ? node.origin().source->name : "the model's config";
}

}  // namespace

const Family& family_of(const config::Node& config) {
  const config::Node* type = config.find("model_type");
  std::vector<std::string> names;
  std::string list;
  for (const Family* family : families()) {
    names.emplace_back(family->model_type);
    list += (list.empty() ? "" : ", ") + names.back();
    if (type != nullptr && type->is_string() && type->as_string() == family->model_type) return *family;
  }
  if (type == nullptr || !type->is_string())
    fail(Fault::kCheckpoint, "{}: there is no model_type; supported are {}", where(config), list);
  std::string near = config::nearest(type->as_string(), names);
  fail(Fault::kCheckpoint, "{}: model_type '{}' is not supported; supported are {}{}", where(config), type->as_string(),
       list, near.empty() ? "" : " (did you mean '" + near + "'?)");
}

std::vector<std::string> field_names(const Family& family) {
  std::vector<std::string> names{
      "architectures",  "model_type",   "torch_dtype",         "dtype",     "transformers_version",
      "bos_token_id",   "eos_token_id", "pad_token_id",        "use_cache", "head_dim",
      "attention_bias", "mlp_bias",     "attn_implementation", "auto_map",  "pretraining_tp"};
  for (const config::FieldSpec& field : family.schema().fields) {
    names.push_back(field.name);
    names.insert(names.end(), field.aliases.begin(), field.aliases.end());
  }
  return names;
}

std::unique_ptr<CausalLM> build(const config::Node& config) {
  const Family& family = family_of(config);
  config::Report report;
  auto model = family.build(config, report);
  report.throw_if_any();
  return model;
}

}  // namespace automodel::models

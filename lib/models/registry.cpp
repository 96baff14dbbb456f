#include "models/registry.h"

#include "config/text.h"
#include "core/error.h"

namespace automodel::models {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> list{&kGpt2, &kLlama, &kMistral, &kMixtral, &kQwen2, &kQwen3, &kQwen3Moe};
  return list;
}

namespace {

std::string where(const config::Node& node) {
  return node.origin().source != nullptr ? node.origin().source->name : "the model's config";
}

}  // namespace

const Family* find_family(const config::Node& config, config::Report& report) {
  const config::Node* type = config.find("model_type");
  std::vector<std::string> names;
  for (const Family* family : families()) {
    names.emplace_back(family->model_type);
    if (type != nullptr && type->is_string() && type->as_string() == family->model_type) return family;
  }
  const std::string supported = "supported are " + config::joined(names, ", ");
  if (type == nullptr || !type->is_string()) {
    report.add({"model_type", "there is no model_type", supported, config.origin()});
    return nullptr;
  }
  const std::string near = config::nearest(type->as_string(), names);
  report.add({"model_type", fmt::format("model_type '{}' is not supported", type->as_string()),
              near.empty() ? supported : fmt::format("did you mean '{}'? {}", near, supported), type->origin()});
  return nullptr;
}

const Family& family_of(const config::Node& config) {
  config::Report report;
  if (const Family* family = find_family(config, report)) return *family;
  const config::Problem& problem = report.problems().front();
  fail(Fault::kCheckpoint, "{}: {}; {}", where(config), problem.message, problem.hint);
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

std::unique_ptr<CausalLM> build(const config::Node& config, const TensorCuts& cuts) {
  const Family& family = family_of(config);
  config::Report report;
  auto model = family.build(config, cuts, report);
  report.throw_if_any();
  return model;
}

}  // namespace automodel::models

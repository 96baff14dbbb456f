#include "train/model_source.h"

#include <algorithm>

#include "checkpoint/directory.h"
#include "config/json_reader.h"
#include "config/text.h"
#include "core/error.h"
#include "core/file.h"
#include "train/weights.h"

namespace automodel::train {
namespace {

using checkpoint::HfModelDir;

config::Node parse_config(const HfModelDir& dir) {
  return config::parse_json(dir.config_text(), (dir.folder() / "config.json").string());
}

// Puts the fields of `over` over those of `base`; nested mappings are merged.
void merge(config::Node& base, const config::Node& over) {
  for (const config::Entry& entry : over.entries()) {
    config::Node* there = base.find(entry.key);
    if (there != nullptr && there->is_map() && entry.value.is_map())
      merge(*there, entry.value);
    else
      base.set(entry.key, entry.value, entry.key_origin);
  }
}

// A head of its own cannot appear or vanish: the weights decide.
void check_tying(const config::Node& base, const config::Node& changes, const std::string& id) {
  const config::Node* wanted = changes.find("tie_word_embeddings");
  const config::Node* stored = base.find("tie_word_embeddings");
  AM_CHECK(wanted == nullptr || stored == nullptr || *wanted == *stored, Fault::kConfig,
           "model: tie_word_embeddings is {} in {} and cannot be changed to {}; leave it out", config::show(*stored),
           id, config::show(*wanted));
}

// A field of the recipe that neither the config nor its family has, but whose neighbour they have, is a typing mistake.
void check_names(const ModelSection& section, const std::vector<std::string>& known, config::Report& report) {
  const auto check = [&](const config::Node& fields, const std::string& place) {
    for (const config::Entry& entry : fields.entries()) {
      if (entry.key.starts_with("_") || std::ranges::find(known, entry.key) != known.end()) continue;
      std::string near = config::nearest(entry.key, known);
      if (!near.empty())
        report.add({place + "." + entry.key, "the model's config has no such field", "did you mean '" + near + "'?",
                    entry.key_origin.source ? entry.key_origin : entry.value.origin()});
    }
  };
  if (const config::Node* fields = inline_fields(section)) check(*fields, "model.config");
  check(common_of(section).overrides, "model");
}

// Builds the model of `config`, which is `base` with the recipe's changes. Mistakes go to the report, with the key of
// the recipe where the recipe has the field; then the result is null.
std::unique_ptr<models::CausalLM> build(const ModelSection& section, const config::Node& base,
                                        const config::Node& config, config::Report& report) {
  config::Report found;
  std::unique_ptr<models::CausalLM> model;
  if (const models::Family* family = models::find_family(config, found)) {
    std::vector<std::string> known = models::field_names(*family);
    for (const config::Entry& entry : base.entries()) known.push_back(entry.key);
    check_names(section, known, report);
    model = family->build(config, {}, found);
  }
  for (config::Problem problem : found.problems()) {
    std::string field = problem.key.substr(0, problem.key.find('.'));
    if (common_of(section).overrides.find(field) != nullptr)
      problem.key = "model." + problem.key;
    else if (inline_fields(section) != nullptr)
      problem.key = "model.config." + problem.key;
    report.add(std::move(problem));
  }
  return report.empty() ? std::move(model) : nullptr;
}

// Writes down what the model's checkpoints need to say.
void finish(ModelSource& source, config::Node config) {
  if (const config::Node* names = config.find("architectures"); names == nullptr || names->is_null()) {
    config::Node list = config::Node::list();
    list.append(config::Node::string(models::family_of(config).architecture));
    config.set("architectures", std::move(list));
  }
  config.set(config.find("dtype") != nullptr ? "dtype" : "torch_dtype", config::Node::string(name_of(source.storage)));
  source.config_json = config::dump_json(config) + "\n";
}

// The type of the weights in a folder. They are looked at only where the config does not say it and they are there.
std::optional<DType> stored_type(const HfModelDir& dir) {
  auto stored = dir.torch_dtype();
  bool there =
      fs::exists(dir.folder() / "model.safetensors") || fs::exists(dir.folder() / "model.safetensors.index.json");
  return stored || !there ? stored : HfModelDir(dir.folder()).torch_dtype();
}

}  // namespace

ModelSource open_model(const ModelSection& section, ModelParts parts) {
  config::Report report;
  ModelSource source = open_model(section, parts, report);
  report.throw_if_any();
  return source;
}

ModelSource open_model(const ModelSection& section, ModelParts parts, config::Report& report) {
  ModelSource source;
  const ModelCommon& common = common_of(section);
  std::string weights = weights_source(section);
  std::string config_from = config_source(section);
  source.id = weights.empty() ? config_from : weights;
  config::Node base;
  std::optional<DType> stored;
  fs::path file = config_from;
  if (!weights.empty() || (!config_from.empty() && (file.extension() != ".json" || fs::is_directory(file)))) {
    fs::path folder = checkpoint::find_model_dir({config_from, common.revision, common.cache_dir});
    bool opens = !weights.empty() && parts == ModelParts::kAll;
    HfModelDir dir(folder, opens ? HfModelDir::Weights::kRequired : HfModelDir::Weights::kIgnored);
    base = parse_config(dir);
    if (!weights.empty()) stored = stored_type(dir);
    if (parts == ModelParts::kAll) source.companions = dir.companion_files();
    if (opens) source.weights.emplace(std::move(dir));
  } else if (!config_from.empty()) {
    AM_CHECK(fs::exists(file), Fault::kCheckpoint, "model.config: {}: there is no such file", config_from);
    base = config::load_json(config_from);
  }
  config::Node changes = config_changes(section);
  if (!weights.empty()) check_tying(base, changes, source.id);
  if (base.is_null()) {
    base = config::Node::map();
    base.set_origin(changes.origin());
  }
  config::Node merged = base;
  merge(merged, changes);
  config::Report found;
  source.storage = model_dtype(section, stored);
  source.model = build(section, base, merged, found);
  for (const config::Problem& problem : found.problems()) report.add(problem);
  if (source.model == nullptr) return source;
  finish(source, std::move(merged));
  if (source.weights) check_weights(*source.model, source.weights->tensors());
  return source;
}

void cut_model(ModelSource& source, const distributed::StrategyConfig& strategy, config::Problems& problems) {
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy);
  if (fsdp2 == nullptr || !fsdp2->tp_plan) return;
  const models::TensorCuts cuts = models::cuts_of(*source.model, *fsdp2->tp_plan, problems);
  source.model = models::build(config::parse_json(source.config_json, source.id), cuts);
}

ModelSource open_folder(const std::string& name) {
  fs::path folder = name;
  if (auto latest = checkpoint::read_pointer(folder, checkpoint::kLatest)) folder = *latest;
  ModelSource source;
  source.id = name;
  source.weights.emplace(checkpoint::find_model_dir({.name_or_path = folder.string()}));
  source.companions = source.weights->companion_files();
  source.storage = source.weights->torch_dtype().value_or(DType::kF32);
  config::Node config = parse_config(*source.weights);
  source.model = models::build(config);
  finish(source, std::move(config));
  check_weights(*source.model, source.weights->tensors());
  return source;
}

}  // namespace automodel::train

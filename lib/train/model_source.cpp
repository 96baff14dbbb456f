#include "train/model_source.h"

#include <nlohmann/json.hpp>

#include "config/dump.h"
#include "config/json_reader.h"
#include "core/error.h"
#include "core/file.h"

namespace automodel::train {
namespace {

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

void finish(ModelSource& source, const config::Node& overrides) {
  merge(source.config, overrides);
  source.model = models::build(source.config);
  if (const config::Node* archs = source.config.find("architectures"); archs == nullptr || archs->is_null()) {
    config::Node list = config::Node::list();
    list.append(config::Node::string(models::family_of(source.config).architecture));
    source.config.set("architectures", std::move(list));
  }
  source.config.set(source.config.find("dtype") != nullptr ? "dtype" : "torch_dtype",
                    config::Node::string(name_of(source.storage)));
  source.config_json = config::dump_json(source.config);
}

}  // namespace

ModelSource from_pretrained(const checkpoint::ModelLocation& location, const config::Node& overrides,
                            std::optional<DType> dtype) {
  ModelSource source;
  source.id = location.name_or_path;
  source.weights.emplace(checkpoint::find_model_dir(location));
  source.config =
      config::parse_json(source.weights->config_text(), (source.weights->folder() / "config.json").string());
  source.storage = dtype.value_or(source.weights->torch_dtype().value_or(DType::kF32));
  source.companions = source.weights->companion_files();
  // A head of its own cannot appear or vanish: the weights decide.
  if (const config::Node* tie = overrides.find("tie_word_embeddings")) {
    const config::Node* stored = source.config.find("tie_word_embeddings");
    AM_CHECK(stored == nullptr || *stored == *tie, Fault::kConfig,
             "{}: tie_word_embeddings cannot be changed against the checkpoint, which has {}", source.id,
             config::show(*stored));
  }
  finish(source, overrides);
  return source;
}

ModelSource from_config(const std::string& location, const config::Node& fields, std::optional<DType> dtype) {
  ModelSource source;
  source.storage = dtype.value_or(DType::kBF16);
  if (location.empty()) {
    source.config = config::Node::map();
    source.config.set_origin(fields.origin());
    const config::Node* type = fields.find("model_type");
    source.id = type != nullptr && type->is_string() ? type->as_string() : "";
  } else {
    source.id = location;
    fs::path file = location;
    if (file.extension() != ".json" || fs::is_directory(file)) {
      checkpoint::HfModelDir dir(checkpoint::find_model_dir({.name_or_path = location}),
                                 checkpoint::HfModelDir::Weights::kIgnored);
      source.config = config::parse_json(dir.config_text(), (dir.folder() / "config.json").string());
      source.companions = dir.companion_files();
    } else {
      AM_CHECK(fs::exists(file), Fault::kCheckpoint, "{}: there is no such file", location);
      source.config = config::parse_json(read_file(file), location);
    }
  }
  finish(source, fields);
  return source;
}

}  // namespace automodel::train

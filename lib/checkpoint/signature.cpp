#include "checkpoint/signature.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace automodel::checkpoint {
namespace {

using nlohmann::json;

// A field and the other names that model families have for it.
struct Field {
  const char* name;
  std::vector<const char*> keys;
};

const std::vector<Field>& fields() {
  static const std::vector<Field> kFields = {
      {"architectures", {"architectures"}},
      {"model_type", {"model_type"}},
      {"hidden_size", {"hidden_size", "n_embd", "d_model"}},
      {"num_hidden_layers", {"num_hidden_layers", "n_layer"}},
      {"num_attention_heads", {"num_attention_heads", "n_head"}},
      {"num_key_value_heads", {"num_key_value_heads"}},
      {"intermediate_size", {"intermediate_size", "n_inner"}},
      {"vocab_size", {"vocab_size"}},
      {"tie_word_embeddings", {"tie_word_embeddings"}},
      {"rope_theta", {"rope_theta"}},
      {"rope_scaling", {"rope_scaling"}},
  };
  return kFields;
}

// Text that is not UTF-8 must not stop a save.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json canonical(const json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    double number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (!text.empty() && error == std::errc() && end == text.data() + text.size()) return number;
    return value;
  }
  json result = value;
  if (value.is_structured())
    for (auto& element : result) element = canonical(element);
  return result;
}

// Newer configurations keep both rope fields in rope_parameters.
json rope_field(const json& config, const std::string& name) {
  auto rope = config.find("rope_parameters");
  if (rope == config.end() || !rope->is_object()) return nullptr;
  if (name == "rope_theta") return rope->value("rope_theta", json());
  json scaling = *rope;
  scaling.erase("rope_theta");
  bool plain = scaling.empty() || (scaling.size() == 1 && scaling.value("rope_type", "") == "default");
  return plain ? json() : scaling;
}

// A number of the signature as config.json writes it.
std::string shown(const std::string& value) {
  return value.ends_with(".0") ? value.substr(0, value.size() - 2) : value;
}

}  // namespace

Signature make_signature(const std::string& config_json, std::string_view model_id, bool peft) {
  json config = json::parse(config_json, nullptr, false);
  AM_CHECK(config.is_object(), Fault::kCheckpoint, "the configuration of model '{}' is no JSON object", model_id);
  Signature signature;
  for (const auto& field : fields()) {
    json value;
    for (const char* key : field.keys)
      if (value.is_null() && config.contains(key)) value = config[key];
    if (value.is_null()) value = rope_field(config, field.name);
    signature[field.name] = dump(canonical(value));
  }
  while (model_id.size() > 1 && model_id.ends_with('/')) model_id.remove_suffix(1);
  signature["model_id"] = dump(std::string(model_id));
  signature["peft"] = peft ? "true" : "false";
  return signature;
}

std::vector<std::string> differences(const Signature& saved, const Signature& now) {
  std::vector<std::string> lines;
  for (const auto& [field, value] : saved) {
    auto other = now.find(field);
    if (other != now.end() && other->second != value)
      lines.push_back(fmt::format("{}: {} in the checkpoint, {} now", field, shown(value), shown(other->second)));
  }
  return lines;
}

}  // namespace automodel::checkpoint

// Mistral: Llama's structure with a sliding window in every layer.
#include "config/config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct MistralConfig {
  MistralConfig() {
    shared.intermediate_size = 14336;
    shared.num_key_value_heads = 8;
    shared.max_position_embeddings = 4096 * 32;
  }
  RotaryConfig shared;
  std::optional<int64_t> sliding_window = 4096;
};

void describe(config::Fields<MistralConfig>& f) {
  f.doc("Mistral.");
  f.allow_unknown();
  f.flatten(&MistralConfig::shared);
  f("sliding_window", &MistralConfig::sliding_window, "Positions that a token sees, itself included; null: all.")
      .above(0);
}

const Family kMistral{
    "mistral",
    "MistralForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<MistralConfig>(node, report);
      if (!report.empty()) return nullptr;
      RotaryFeatures features;
      features.windows = layer_windows(c.sliding_window, std::nullopt, 0, c.shared.num_hidden_layers);
      return build_rotary("mistral", c.shared, features, cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<MistralConfig>};

}  // namespace automodel::models

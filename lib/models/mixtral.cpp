// Mixtral: Mistral's structure with routed experts in every layer.
#include "config/config.h"
#include "core/error.h"
#include "models/experts_config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct MixtralConfig {
  MixtralConfig() {
    shared.intermediate_size = 14336;
    shared.num_key_value_heads = 8;
    shared.max_position_embeddings = 4096 * 32;
    shared.rms_norm_eps = 1e-5;
    shared.rope_theta = 1e6;
  }
  RotaryConfig shared;
  ExpertsConfig experts;
  std::optional<int64_t> sliding_window;
  double router_jitter_noise = 0;
};

void describe(config::Fields<MixtralConfig>& f) {
  f.doc("Mixtral.");
  f.allow_unknown();
  f.flatten(&MixtralConfig::shared);
  f.flatten(&MixtralConfig::experts);
  f("sliding_window", &MixtralConfig::sliding_window, "Positions that a token sees, itself included; null: all.")
      .above(0);
  f("router_jitter_noise", &MixtralConfig::router_jitter_noise, "Noise of the router's input in training.").at_least(0);
}

const Family kMixtral{
    "mixtral",
    "MixtralForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<MixtralConfig>(node, report);
      if (!report.empty()) return nullptr;
      RotaryFeatures features;
      features.windows = layer_windows(c.sliding_window, std::nullopt, 0, c.shared.num_hidden_layers);
      features.moe = moe_spec(c.experts, c.shared, c.shared.intermediate_size);
      features.moe->renormalise = true;
      features.moe->names = {"gate", "w1", "w3", "w2"};
      features.moe_prefix = "block_sparse_moe.";
      if (c.router_jitter_noise > 0)
        features.notes.push_back(fmt::format(
            "the config asks for router_jitter_noise {}; the routers get no noise here", c.router_jitter_noise));
      return build_rotary("mixtral", c.shared, features, cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<MixtralConfig>};

}  // namespace automodel::models

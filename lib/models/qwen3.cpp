// Qwen3: Llama's structure with an RMSNorm on every query and key head and a head width of its own.
#include "config/config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct Qwen3Config {
  Qwen3Config() {
    shared.vocab_size = 151936;
    shared.intermediate_size = 22016;
    shared.num_key_value_heads = 32;
    shared.head_dim = 128;
    shared.max_position_embeddings = 32768;
  }
  RotaryConfig shared;
  bool attention_bias = false;
  bool use_sliding_window = false;
  std::optional<int64_t> sliding_window = 4096;
  int64_t max_window_layers = 28;
  std::optional<std::vector<std::string>> layer_types;
};

void describe(config::Fields<Qwen3Config>& f) {
  f.doc("Qwen3.");
  f.allow_unknown();
  f.flatten(&Qwen3Config::shared);
  f("attention_bias", &Qwen3Config::attention_bias, "Biases in q, k, v and o.");
  f("use_sliding_window", &Qwen3Config::use_sliding_window, "Whether upper layers see a window only.");
  f("sliding_window", &Qwen3Config::sliding_window, "Positions that a token of those layers sees.").above(0);
  f("max_window_layers", &Qwen3Config::max_window_layers, "Layers below this one see everything.").at_least(0);
  f("layer_types", &Qwen3Config::layer_types, "full_attention or sliding_attention, for each layer.");
}

const Family kQwen3{
    "qwen3",
    "Qwen3ForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<Qwen3Config>(node, report);
      if (!report.empty()) return nullptr;
      RotaryFeatures features;
      features.qkv_bias = features.output_bias = c.attention_bias;
      features.head_norm = true;
      if (c.use_sliding_window)
        features.windows =
            layer_windows(c.sliding_window, c.layer_types, c.max_window_layers, c.shared.num_hidden_layers);
      return build_rotary("qwen3", c.shared, features, cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<Qwen3Config>};

}  // namespace automodel::models

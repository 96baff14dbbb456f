// Qwen2 and Qwen2.5: Llama's structure with biases in q, k, v; some models slide a window over their upper layers.
#include "config/config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct Qwen2Config {
  Qwen2Config() {
    shared.vocab_size = 151936;
    shared.intermediate_size = 22016;
    shared.num_key_value_heads = 32;
    shared.max_position_embeddings = 32768;
  }
  RotaryConfig shared;
  bool use_sliding_window = false;
  std::optional<int64_t> sliding_window = 4096;
  int64_t max_window_layers = 28;
  std::optional<std::vector<std::string>> layer_types;
};

void describe(config::Fields<Qwen2Config>& f) {
  f.doc("Qwen2.");
  f.allow_unknown();
  f.flatten(&Qwen2Config::shared);
  f("use_sliding_window", &Qwen2Config::use_sliding_window, "Whether upper layers see a window only.");
  f("sliding_window", &Qwen2Config::sliding_window, "Positions that a token of those layers sees.").above(0);
  f("max_window_layers", &Qwen2Config::max_window_layers, "Layers below this one see everything.").at_least(0);
  f("layer_types", &Qwen2Config::layer_types, "full_attention or sliding_attention, for each layer.");
}

const Family kQwen2{
    "qwen2",
    "Qwen2ForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<Qwen2Config>(node, report);
      if (!report.empty()) return nullptr;
      RotaryFeatures features;
      features.qkv_bias = true;
      if (c.use_sliding_window)
        features.windows =
            layer_windows(c.sliding_window, c.layer_types, c.max_window_layers, c.shared.num_hidden_layers);
      return build_rotary("qwen2", c.shared, features, cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<Qwen2Config>};

}  // namespace automodel::models

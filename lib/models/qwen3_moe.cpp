// Qwen3 with routed experts: Qwen3's attention; experts in all layers, in every n-th, or in all but some.
#include <algorithm>

#include "config/config.h"
#include "models/experts_config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct Qwen3MoeConfig {
  Qwen3MoeConfig() {
    shared.vocab_size = 151936;
    shared.hidden_size = 2048;
    shared.intermediate_size = 6144;
    shared.num_hidden_layers = 24;
    shared.num_key_value_heads = 4;
    shared.max_position_embeddings = 32768;
    experts.num_local_experts = 128;
    experts.num_experts_per_tok = 8;
  }
  RotaryConfig shared;
  ExpertsConfig experts;
  int64_t moe_intermediate_size = 768;
  bool norm_topk_prob = false;
  int64_t decoder_sparse_step = 1;
  std::optional<std::vector<int64_t>> mlp_only_layers;
  bool attention_bias = false;
  bool use_sliding_window = false;
  std::optional<int64_t> sliding_window = 4096;

  bool has_experts(int64_t layer) const {
    bool excepted = mlp_only_layers && std::ranges::find(*mlp_only_layers, layer) != mlp_only_layers->end();
    return !excepted && (layer + 1) % decoder_sparse_step == 0;
  }
};

void describe(config::Fields<Qwen3MoeConfig>& f) {
  using C = Qwen3MoeConfig;
  f.doc("Qwen3 with experts.");
  f.allow_unknown();
  f.flatten(&C::shared);
  f.flatten(&C::experts);
  f("moe_intermediate_size", &C::moe_intermediate_size, "Inner width of an expert.").above(0);
  f("norm_topk_prob", &C::norm_topk_prob, "Whether the weights of a token's experts are made to sum to 1.");
  f("decoder_sparse_step", &C::decoder_sparse_step, "Every how many layers there are experts.").above(0);
  f("mlp_only_layers", &C::mlp_only_layers, "Layers that have one MLP of intermediate_size instead of experts.");
  f("attention_bias", &C::attention_bias, "Biases in q, k, v and o.");
  f("use_sliding_window", &C::use_sliding_window, "Whether all layers see a window only.");
  f("sliding_window", &C::sliding_window, "Positions that a token sees then.").above(0);
}

const Family kQwen3Moe{
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<Qwen3MoeConfig>(node, report);
      if (!report.empty()) return nullptr;
      RotaryFeatures features;
      features.qkv_bias = features.output_bias = c.attention_bias;
      features.head_norm = true;
      if (c.use_sliding_window)
        features.windows = layer_windows(c.sliding_window, std::nullopt, 0, c.shared.num_hidden_layers);
      features.moe = moe_spec(c.experts, c.shared, c.moe_intermediate_size);
      features.moe->renormalise = c.norm_topk_prob;
      for (int64_t i = 0; i < c.shared.num_hidden_layers; ++i)
        if (!c.has_experts(i)) features.dense_layers.insert(i);
      return build_rotary("qwen3_moe", c.shared, features, cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<Qwen3MoeConfig>};

}  // namespace automodel::models

// Llama 2 and 3 and everything published in their form.
#include "config/config.h"
#include "models/registry.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct LlamaConfig {
  RotaryConfig shared;
  bool attention_bias = false;
  bool mlp_bias = false;
};

void describe(config::Fields<LlamaConfig>& f) {
  f.doc("Llama.");
  f.allow_unknown();
  f.flatten(&LlamaConfig::shared);
  f("attention_bias", &LlamaConfig::attention_bias, "Biases in q, k, v and o.");
  f("mlp_bias", &LlamaConfig::mlp_bias, "Biases in the MLP.");
}

const Family kLlama{
    "llama",
    "LlamaForCausalLM",
    [](const config::Node& node, const TensorCuts& cuts, config::Report& report) -> std::unique_ptr<CausalLM> {
      auto c = config::read<LlamaConfig>(node, report);
      if (!report.empty()) return nullptr;
      return build_rotary("llama", c.shared,
                          {.qkv_bias = c.attention_bias,
                           .output_bias = c.attention_bias,
                           .mlp_bias = c.mlp_bias,
                           .head_norm = false,
                           .windows = {}},
                          cuts);
    },
    {"*.rotary_emb.inv_freq"},
    config::schema_of<LlamaConfig>};

}  // namespace automodel::models

// The part of config.json that Llama and its relatives share, and the model they share it for: pre-norm blocks of
// RMSNorm, rotary grouped-query attention and a gated MLP. A family file gives its defaults (those of the class in
// transformers, since configs leave out what equals them) and says what differs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/schema.h"
#include "models/causal_lm.h"
#include "models/tensor_plan.h"
#include "nn/moe.h"

namespace automodel::models {

// `rope_scaling` (older configs) or `rope_parameters` (newer ones, with the base inside).
struct RopeConfig {
  std::optional<std::string> rope_type;
  std::optional<double> rope_theta;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
};
void describe(config::Fields<RopeConfig>& f);

struct RotaryConfig {
  int64_t vocab_size = 32000;
  int64_t hidden_size = 4096;
  int64_t intermediate_size = 11008;
  int64_t num_hidden_layers = 32;
  int64_t num_attention_heads = 32;
  std::optional<int64_t> num_key_value_heads;  // empty: as many as heads
  std::optional<int64_t> head_dim;             // empty: hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  std::string hidden_act = "silu";
  bool tie_word_embeddings = false;
  double rope_theta = 10000;
  std::optional<RopeConfig> rope_scaling;
  std::optional<RopeConfig> rope_parameters;
  double attention_dropout = 0;
};
void describe(config::Fields<RotaryConfig>& f);

// What a family does on top of the shared structure.
struct RotaryFeatures {
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool head_norm = false;
  std::vector<int64_t> windows;         // sliding window of each layer, 0: none; empty: none anywhere
  std::optional<nn::MoeSpec> moe = {};  // experts instead of the MLP, in all layers but dense_layers
  std::string moe_prefix = "mlp.";      // of the experts' weights, within a layer
  std::set<int64_t> dense_layers = {};
  std::vector<std::string> notes = {};  // see ModelInfo
};

// The windows of a model whose `layer_types` may name them ("sliding_attention", "full_attention"); without the list,
// layers from `first` on have the window. An empty or zero window gives none.
std::vector<int64_t> layer_windows(std::optional<int64_t> window,
                                   const std::optional<std::vector<std::string>>& layer_types, int64_t first,
                                   int64_t layers);

std::unique_ptr<CausalLM> build_rotary(const std::string& model_type, const RotaryConfig& config,
                                       const RotaryFeatures& features, const TensorCuts& cuts);

// The activation that a config names, or nothing.
std::optional<ops::Activation> parse_activation(const std::string& name);

}  // namespace automodel::models

#include "models/rotary_config.h"

#include <cmath>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "nn/decoder_block.h"

namespace automodel::models {

using Block = nn::DecoderBlock<nn::RotaryAttention, nn::GatedMlp>;
using ExpertBlock = nn::DecoderBlock<nn::RotaryAttention, nn::MoeMlp>;

std::optional<ops::Activation> parse_activation(const std::string& name) {
  if (name == "silu" || name == "swish") return ops::Activation::kSilu;
  if (name == "gelu") return ops::Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return ops::Activation::kGeluTanh;
  if (name == "relu") return ops::Activation::kRelu;
  return std::nullopt;
}

void describe(config::Fields<RopeConfig>& f) {
  f.doc("Rotary positions: the base and how frequencies are scaled for longer contexts.");
  f.allow_unknown();
  f("rope_type", &RopeConfig::rope_type, "Scaling: default, linear or llama3.").alias("type");
  f("rope_theta", &RopeConfig::rope_theta, "Base of the frequencies.").above(0);
  f("factor", &RopeConfig::factor, "By how much the context is stretched.").above(0);
  f("low_freq_factor", &RopeConfig::low_freq_factor, "llama3: wavelengths above original / this are stretched.")
      .above(0);
  f("high_freq_factor", &RopeConfig::high_freq_factor, "llama3: wavelengths below original / this are kept.").above(0);
  f("original_max_position_embeddings", &RopeConfig::original_max_position_embeddings,
    "llama3: the context the model was first trained with.")
      .above(0);
  f.check([](const RopeConfig& c, config::Problems& p) {
    std::string type = c.rope_type.value_or("default");
    if (type != "default" && type != "linear" && type != "llama3")
      p.add("rope_type", fmt::format("RoPE scaling '{}' is not supported", type),
            "supported are default, linear and llama3");
    if (type == "llama3" && c.high_freq_factor <= c.low_freq_factor)
      p.add("high_freq_factor",
            fmt::format("high_freq_factor {} must be above low_freq_factor {}", c.high_freq_factor, c.low_freq_factor));
  });
}

void describe(config::Fields<RotaryConfig>& f) {
  f("vocab_size", &RotaryConfig::vocab_size, "Rows of the token embedding.").above(0);
  f("hidden_size", &RotaryConfig::hidden_size, "Width of the residual stream.").above(0);
  f("intermediate_size", &RotaryConfig::intermediate_size, "Inner width of the MLP.").above(0);
  f("num_hidden_layers", &RotaryConfig::num_hidden_layers, "Number of blocks.").above(0);
  f("num_attention_heads", &RotaryConfig::num_attention_heads, "Query heads.").above(0);
  f("num_key_value_heads", &RotaryConfig::num_key_value_heads, "Key/value heads; default: as many as query heads.")
      .above(0);
  f("head_dim", &RotaryConfig::head_dim, "Width of a head; default: hidden_size / num_attention_heads.").above(0);
  f("max_position_embeddings", &RotaryConfig::max_position_embeddings, "Longest context the model is made for.")
      .above(0);
  f("rms_norm_eps", &RotaryConfig::rms_norm_eps, "Added to the mean square in RMSNorm.").at_least(0);
  f("initializer_range", &RotaryConfig::initializer_range, "Standard deviation of initial weights.").at_least(0);
  f("hidden_act", &RotaryConfig::hidden_act, "Activation of the MLP's gate.");
  f("tie_word_embeddings", &RotaryConfig::tie_word_embeddings, "The head is the token embedding.");
  f("rope_theta", &RotaryConfig::rope_theta, "Base of the rotary frequencies.").above(0);
  f("rope_scaling", &RotaryConfig::rope_scaling, "Scaling of rotary frequencies (older spelling).");
  f("rope_parameters", &RotaryConfig::rope_parameters, "Base and scaling of rotary frequencies (newer spelling).");
  f("attention_dropout", &RotaryConfig::attention_dropout, "Dropout of attention weights in training.")
      .at_least(0)
      .below(1);
  f.check([](const RotaryConfig& c, config::Problems& p) {
    int64_t kv = c.num_key_value_heads.value_or(c.num_attention_heads);
    if (c.num_attention_heads % kv != 0)
      p.add("num_key_value_heads",
            fmt::format("{} key/value heads do not divide {} query heads", kv, c.num_attention_heads));
    if (!c.head_dim && c.hidden_size % c.num_attention_heads != 0)
      p.add("num_attention_heads",
            fmt::format("hidden_size {} is not a multiple of {} heads", c.hidden_size, c.num_attention_heads),
            "give head_dim or change one of them");
    if (c.head_dim.value_or(c.hidden_size / c.num_attention_heads) % 2 != 0)
      p.add("head_dim", "rotary positions need an even head width");
    if (!parse_activation(c.hidden_act))
      p.add("hidden_act", fmt::format("activation '{}' is not supported", c.hidden_act),
            "supported are silu, gelu, gelu_new, gelu_pytorch_tanh and relu");
  });
}

namespace {

nn::RopeScaling scaling_of(const RotaryConfig& config) {
  const auto& rope = config.rope_parameters ? config.rope_parameters : config.rope_scaling;
  if (!rope) return {};
  nn::RopeScaling scaling{nn::RopeScaling::Kind::kNone, rope->factor, rope->low_freq_factor, rope->high_freq_factor,
                          rope->original_max_position_embeddings};
  if (rope->rope_type == "linear") scaling.kind = nn::RopeScaling::Kind::kLinear;
  if (rope->rope_type == "llama3") scaling.kind = nn::RopeScaling::Kind::kLlama3;
  return scaling;
}

double theta_of(const RotaryConfig& config) {
  if (config.rope_parameters && config.rope_parameters->rope_theta) return *config.rope_parameters->rope_theta;
  return config.rope_theta;
}

ModelInfo info_of(const std::string& model_type, const RotaryConfig& c) {
  ModelInfo info;
  info.model_type = model_type;
  info.vocab_size = c.vocab_size;
  info.hidden_size = c.hidden_size;
  info.intermediate_size = c.intermediate_size;
  info.layers = c.num_hidden_layers;
  info.heads = c.num_attention_heads;
  info.kv_heads = c.num_key_value_heads.value_or(c.num_attention_heads);
  info.head_dim = c.head_dim.value_or(c.hidden_size / c.num_attention_heads);
  info.max_positions = c.max_position_embeddings;
  info.tied_head = c.tie_word_embeddings;
  return info;
}

}  // namespace

std::vector<int64_t> layer_windows(std::optional<int64_t> window,
                                   const std::optional<std::vector<std::string>>& layer_types, int64_t first,
                                   int64_t layers) {
  std::vector<int64_t> out(static_cast<size_t>(layers), 0);
  for (size_t i = 0; i < out.size(); ++i) {
    bool sliding = layer_types && i < layer_types->size() ? (*layer_types)[i] == "sliding_attention"
                                                          : static_cast<int64_t>(i) >= first;
    if (sliding) out[i] = window.value_or(0);
  }
  return out;
}

std::unique_ptr<CausalLM> build_rotary(const std::string& model_type, const RotaryConfig& c,
                                       const RotaryFeatures& features, const TensorCuts& cuts) {
  ModelInfo info = info_of(model_type, c);
  info.notes = features.notes;
  if (features.moe) {
    info.experts = features.moe->experts;
    info.experts_per_token = features.moe->top_k;
    info.expert_size = features.moe->inner;
    info.expert_layers = c.num_hidden_layers - static_cast<int64_t>(features.dense_layers.size());
  }
  auto std = static_cast<float>(c.initializer_range);
  auto rope = std::make_unique<nn::Rope>(info.head_dim, theta_of(c), scaling_of(c));

  nn::AttentionSpec attention;
  attention.hidden = c.hidden_size;
  attention.layout = {info.heads, info.kv_heads, info.head_dim};
  attention.bias = features.qkv_bias;
  attention.output_bias = features.output_bias;
  attention.head_norm = features.head_norm;
  attention.norm_eps = c.rms_norm_eps;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(info.head_dim)));
  attention.init_std = std;
  attention.dropout = c.attention_dropout;
  nn::MlpSpec mlp{c.hidden_size, c.intermediate_size, features.mlp_bias, *parse_activation(c.hidden_act), std};

  const bool cut_embedding = cuts.contains("model.embed_tokens"), cut_head = cuts.contains("lm_head");
  info.cuts_heads = info.cuts_mlps = false;
  info.cuts_vocabulary = cut_embedding || cut_head;

  std::vector<std::unique_ptr<nn::Block>> blocks;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    std::string prefix = "model.layers." + std::to_string(i) + ".";
    attention.window = features.windows.empty() ? 0 : features.windows[static_cast<size_t>(i)];
    attention.cut = cuts.contains(prefix + "self_attn");
    mlp.cut = cuts.contains(prefix + "mlp");
    info.cuts_heads |= attention.cut;
    auto norm = [&](const char* name) {
      return nn::Norm(prefix + name, c.hidden_size, nn::NormKind::kRms, c.rms_norm_eps);
    };
    auto add = [&]<class T>(std::type_identity<T>, auto feed_forward) {
      blocks.push_back(std::make_unique<T>(norm("input_layernorm"),
                                           nn::RotaryAttention(prefix + "self_attn.", attention, *rope),
                                           norm("post_attention_layernorm"), std::move(feed_forward)));
    };
    if (features.moe && !features.dense_layers.contains(i))
      add(std::type_identity<ExpertBlock>{}, nn::MoeMlp(prefix + features.moe_prefix, *features.moe));
    else
      add(std::type_identity<Block>{}, nn::GatedMlp(prefix + "mlp.", mlp)), info.cuts_mlps |= mlp.cut;
  }
  std::optional<nn::Param> head;
  Shape table{c.vocab_size, c.hidden_size};
  if (!c.tie_word_embeddings) head.emplace("lm_head.weight", table, nn::Init::normal(std));
  return std::make_unique<CausalLM>(Parts{std::move(info),
                                          nn::Param("model.embed_tokens.weight", table, nn::Init::normal(std)),
                                          std::nullopt,
                                          std::move(rope),
                                          std::move(blocks),
                                          nn::Norm("model.norm", c.hidden_size, nn::NormKind::kRms, c.rms_norm_eps),
                                          std::move(head),
                                          {},
                                          cut_embedding,
                                          cut_head});
}

}  // namespace automodel::models

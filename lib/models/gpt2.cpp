// GPT-2: LayerNorm, learned positions, one fused attention projection, weights stored [in, out].
#include <cmath>

#include "config/config.h"
#include "core/error.h"
#include "models/registry.h"
#include "models/rotary_config.h"
#include "nn/decoder_block.h"

namespace automodel::models {

struct Gpt2Config {
  int64_t vocab_size = 50257;
  int64_t n_positions = 1024;
  int64_t n_embd = 768;
  int64_t n_layer = 12;
  int64_t n_head = 12;
  std::optional<int64_t> n_inner;  // empty: 4 n_embd
  std::string activation_function = "gelu_new";
  double resid_pdrop = 0.1;
  double embd_pdrop = 0.1;
  double attn_pdrop = 0.1;
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  bool scale_attn_weights = true;
  bool scale_attn_by_inverse_layer_idx = false;
  bool tie_word_embeddings = true;
};

void describe(config::Fields<Gpt2Config>& f) {
  f.doc("GPT-2.");
  f.allow_unknown();
  f("vocab_size", &Gpt2Config::vocab_size, "Rows of the token embedding.").above(0);
  f("n_positions", &Gpt2Config::n_positions, "Rows of the position embedding: the longest sequence.").above(0);
  f("n_embd", &Gpt2Config::n_embd, "Width of the residual stream.").above(0).alias("hidden_size");
  f("n_layer", &Gpt2Config::n_layer, "Number of blocks.").above(0).alias("num_hidden_layers");
  f("n_head", &Gpt2Config::n_head, "Attention heads.").above(0).alias("num_attention_heads");
  f("n_inner", &Gpt2Config::n_inner, "Inner width of the MLP; default: 4 n_embd.").above(0);
  f("activation_function", &Gpt2Config::activation_function, "Activation of the MLP.");
  f("resid_pdrop", &Gpt2Config::resid_pdrop, "Dropout of block outputs in training.").at_least(0).below(1);
  f("embd_pdrop", &Gpt2Config::embd_pdrop, "Dropout of the embedding in training.").at_least(0).below(1);
  f("attn_pdrop", &Gpt2Config::attn_pdrop, "Dropout of attention weights in training.").at_least(0).below(1);
  f("layer_norm_epsilon", &Gpt2Config::layer_norm_epsilon, "Added to the variance in LayerNorm.").at_least(0);
  f("initializer_range", &Gpt2Config::initializer_range, "Standard deviation of initial weights.").at_least(0);
  f("scale_attn_weights", &Gpt2Config::scale_attn_weights, "Scores are divided by sqrt(head width).");
  f("scale_attn_by_inverse_layer_idx", &Gpt2Config::scale_attn_by_inverse_layer_idx,
    "Scores are divided by layer + 1.");
  f("tie_word_embeddings", &Gpt2Config::tie_word_embeddings, "The head is the token embedding.");
  f.check([](const Gpt2Config& c, config::Problems& p) {
    if (c.n_embd % c.n_head != 0)
      p.add("n_head", fmt::format("n_embd {} is not a multiple of {} heads", c.n_embd, c.n_head));
    if (!parse_activation(c.activation_function))
      p.add("activation_function", fmt::format("activation '{}' is not supported", c.activation_function),
            "supported are gelu_new, gelu, gelu_pytorch_tanh, silu and relu");
  });
}

namespace {

using Block = nn::DecoderBlock<nn::FusedAttention, nn::PlainMlp>;

ModelInfo info_of(const Gpt2Config& c) {
  ModelInfo info;
  info.model_type = "gpt2";
  info.vocab_size = c.vocab_size;
  info.hidden_size = c.n_embd;
  info.intermediate_size = c.n_inner.value_or(4 * c.n_embd);
  info.layers = c.n_layer;
  info.heads = info.kv_heads = c.n_head;
  info.head_dim = c.n_embd / c.n_head;
  info.max_positions = c.n_positions;
  info.absolute_positions = true;
  info.tied_head = c.tie_word_embeddings;
  return info;
}

std::unique_ptr<CausalLM> build_gpt2(const config::Node& node, const TensorCuts& cuts, config::Report& report) {
  auto c = config::read<Gpt2Config>(node, report);
  if (!report.empty()) return nullptr;
  ModelInfo info = info_of(c);
  auto std = static_cast<float>(c.initializer_range);
  // Projections back into the residual stream start smaller: std / sqrt(2 n_layer).
  auto output_std = static_cast<float>(c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.n_layer)));
  nn::AttentionSpec attention;
  attention.hidden = c.n_embd;
  attention.layout = {c.n_head, c.n_head, info.head_dim};
  attention.bias = attention.output_bias = true;
  attention.init_std = std;
  attention.dropout = c.attn_pdrop;
  attention.output_dropout = c.resid_pdrop;
  nn::MlpSpec mlp{c.n_embd, info.intermediate_size, true, *parse_activation(c.activation_function), std, c.resid_pdrop};

  const bool cut_embedding = cuts.contains("transformer.wte"), cut_head = cuts.contains("lm_head");
  info.cuts_heads = info.cuts_mlps = false;
  info.cuts_vocabulary = cut_embedding || cut_head;

  std::vector<std::unique_ptr<nn::Block>> blocks;
  for (int64_t i = 0; i < c.n_layer; ++i) {
    std::string prefix = "transformer.h." + std::to_string(i) + ".";
    double scale = c.scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(info.head_dim)) : 1.0;
    if (c.scale_attn_by_inverse_layer_idx) scale /= static_cast<double>(i + 1);
    attention.scale = static_cast<float>(scale);
    attention.cut = cuts.contains(prefix + "attn");
    mlp.cut = cuts.contains(prefix + "mlp");
    info.cuts_heads |= attention.cut;
    info.cuts_mlps |= mlp.cut;
    auto norm = [&](const char* name) {
      return nn::Norm(prefix + name, c.n_embd, nn::NormKind::kLayer, c.layer_norm_epsilon);
    };
    blocks.push_back(std::make_unique<Block>(norm("ln_1"), nn::FusedAttention(prefix + "attn.", attention, output_std),
                                             norm("ln_2"), nn::PlainMlp(prefix + "mlp.", mlp, output_std)));
  }
  std::optional<nn::Param> head;
  if (!c.tie_word_embeddings) head.emplace("lm_head.weight", Shape{c.vocab_size, c.n_embd}, nn::Init::normal(std));
  return std::make_unique<CausalLM>(
      Parts{std::move(info), nn::Param("transformer.wte.weight", {c.vocab_size, c.n_embd}, nn::Init::normal(std)),
            nn::Param("transformer.wpe.weight", {c.n_positions, c.n_embd}, nn::Init::normal(std)), nullptr,
            std::move(blocks), nn::Norm("transformer.ln_f", c.n_embd, nn::NormKind::kLayer, c.layer_norm_epsilon),
            std::move(head), nn::Dropout("transformer.drop", c.embd_pdrop), cut_embedding, cut_head});
}

}  // namespace

const Family kGpt2{
    "gpt2", "GPT2LMHeadModel", build_gpt2, {"*.attn.bias", "*.attn.masked_bias"}, config::schema_of<Gpt2Config>};

}  // namespace automodel::models

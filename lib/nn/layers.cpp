#include "nn/layers.h"

#include <array>

#include "ops/norm.h"
#include "ops/pointwise.h"

namespace automodel::nn {

using autograd::Var;

namespace {

void collect_linear(Linear& linear, std::vector<Param*>& out) {
  out.push_back(&linear.weight());
  if (linear.bias() != nullptr) out.push_back(linear.bias());
}

ops::AttentionArgs attention_args(const AttentionSpec& spec, const Dropout& dropout, const Tokens& tokens) {
  return {.batch = tokens.batch,
          .sequence = tokens.sequence,
          .layout = spec.layout,
          .scale = spec.scale,
          .window = spec.window,
          .dropout = dropout.args(tokens)};
}

Var attend(const Var& qkv, const AttentionSpec& spec, const Dropout& dropout, const Tokens& tokens) {
  ops::AttentionArgs args = attention_args(spec, dropout, tokens);
  if (tokens.cache != nullptr)
    return ops::attention(qkv, args, tokens.cache->layer(tokens.layer), tokens.cache->capacity());
  return ops::attention(qkv, args, tokens.document_start);
}

}  // namespace

Linear::Linear(const std::string& name, const LinearSpec& spec)
    : weight_(name + ".weight", spec.in_out ? Shape{spec.in, spec.out} : Shape{spec.out, spec.in},
              Init::normal(spec.init_std)),
      in_out_(spec.in_out) {
  if (spec.bias) bias_.emplace(name + ".bias", Shape{spec.out}, Init::zeros());
}

Norm::Norm(const std::string& name, int64_t width, NormKind kind, double eps)
    : weight_(name + ".weight", {width}, Init::ones()), eps_(static_cast<float>(eps)) {
  if (kind == NormKind::kLayer) bias_.emplace(name + ".bias", Shape{width}, Init::zeros());
}

Var Norm::forward(const Var& x) {
  return bias_ ? ops::layer_norm(x, weight_, *bias_, eps_) : ops::rms_norm(x, weight_, eps_);
}

void Norm::collect(std::vector<Param*>& out) {
  out.push_back(&weight_);
  if (bias_) out.push_back(&*bias_);
}

RotaryAttention::RotaryAttention(const std::string& prefix, const AttentionSpec& spec, Rope& rope)
    : spec_(spec),
      rope_(rope),
      q_(prefix + "q_proj", {spec.hidden, spec.layout.heads * spec.layout.head_dim, spec.bias, false, spec.init_std}),
      k_(prefix + "k_proj",
         {spec.hidden, spec.layout.kv_heads * spec.layout.head_dim, spec.bias, false, spec.init_std}),
      v_(prefix + "v_proj",
         {spec.hidden, spec.layout.kv_heads * spec.layout.head_dim, spec.bias, false, spec.init_std}),
      o_(prefix + "o_proj",
         {spec.layout.heads * spec.layout.head_dim, spec.hidden, spec.output_bias, false, spec.init_std}),
      dropout_(prefix + "attn_dropout", spec.dropout) {
  if (!spec.head_norm) return;
  q_norm_.emplace(prefix + "q_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
  k_norm_.emplace(prefix + "k_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
}

Var RotaryAttention::forward(const Var& x, const Tokens& tokens) {
  std::array<ops::Projection, 3> qkv_weights{q_.projection(), k_.projection(), v_.projection()};
  Var qkv = ops::linear(x, qkv_weights);
  if (q_norm_) qkv = ops::head_norm(qkv, *q_norm_, *k_norm_, spec_.layout, static_cast<float>(spec_.norm_eps));
  qkv = ops::rope(qkv, tokens.positions, rope_.table(tokens.positions_end(), x.tape->allocator()), spec_.layout);
  return o_.forward(attend(qkv, spec_, dropout_, tokens));
}

void RotaryAttention::collect(std::vector<Param*>& out) {
  // Weights side by side, so that the three projections are one matrix; then the biases.
  for (Linear* l : {&q_, &k_, &v_}) out.push_back(&l->weight());
  for (Linear* l : {&q_, &k_, &v_})
    if (l->bias() != nullptr) out.push_back(l->bias());
  collect_linear(o_, out);
  if (q_norm_) out.push_back(&*q_norm_);
  if (k_norm_) out.push_back(&*k_norm_);
}

FusedAttention::FusedAttention(const std::string& prefix, const AttentionSpec& spec, float output_std)
    : spec_(spec),
      qkv_(prefix + "c_attn", {spec.hidden, spec.layout.width(), spec.bias, true, spec.init_std}),
      o_(prefix + "c_proj",
         {spec.layout.heads * spec.layout.head_dim, spec.hidden, spec.output_bias, true, output_std}),
      dropout_(prefix + "attn_dropout", spec.dropout),
      output_dropout_(prefix + "resid_dropout", spec.output_dropout) {}

Var FusedAttention::forward(const Var& x, const Tokens& tokens) {
  Var out = o_.forward(attend(qkv_.forward(x), spec_, dropout_, tokens));
  return output_dropout_.forward(out, tokens);
}

void FusedAttention::collect(std::vector<Param*>& out) {
  collect_linear(qkv_, out);
  collect_linear(o_, out);
}

GatedMlp::GatedMlp(const std::string& prefix, const MlpSpec& spec)
    : gate_(prefix + "gate_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std}),
      up_(prefix + "up_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std}),
      down_(prefix + "down_proj", {spec.inner, spec.hidden, spec.bias, false, spec.init_std}),
      activation_(spec.activation) {}

Var GatedMlp::forward(const Var& x, const Tokens&) {
  std::array<ops::Projection, 2> weights{gate_.projection(), up_.projection()};
  return down_.forward(ops::gated(ops::linear(x, weights), activation_));
}

void GatedMlp::collect(std::vector<Param*>& out) {
  for (Linear* l : {&gate_, &up_}) out.push_back(&l->weight());
  for (Linear* l : {&gate_, &up_})
    if (l->bias() != nullptr) out.push_back(l->bias());
  collect_linear(down_, out);
}

PlainMlp::PlainMlp(const std::string& prefix, const MlpSpec& spec, float output_std)
    : in_(prefix + "c_fc", {spec.hidden, spec.inner, spec.bias, true, spec.init_std}),
      out_(prefix + "c_proj", {spec.inner, spec.hidden, spec.bias, true, output_std}),
      activation_(spec.activation),
      dropout_(prefix + "dropout", spec.dropout) {}

Var PlainMlp::forward(const Var& x, const Tokens& tokens) {
  return dropout_.forward(out_.forward(ops::activation(in_.forward(x), activation_)), tokens);
}

void PlainMlp::collect(std::vector<Param*>& out) {
  collect_linear(in_, out);
  collect_linear(out_, out);
}

}  // namespace automodel::nn

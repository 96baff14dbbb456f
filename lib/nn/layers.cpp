#include "nn/layers.h"

#include <algorithm>
#include <array>

#include "ops/norm.h"
#include "ops/pointwise.h"
#include "ops/tensor_parallel.h"

namespace automodel::nn {

using autograd::Var;

namespace {

void collect_linear(Linear& linear, std::vector<Param*>& out) {
  out.push_back(&linear.weight());
  if (linear.bias() != nullptr) out.push_back(linear.bias());
}

// The rank's heads.
ops::HeadLayout local_layout(const AttentionSpec& spec, const Tokens& tokens) {
  int64_t ranks = tokens.ranks().tp_size();
  return {spec.layout.heads / ranks, std::max<int64_t>(1, spec.layout.kv_heads / ranks), spec.layout.head_dim};
}

std::vector<SplitPart> head_parts(const AttentionSpec& spec, int64_t heads) {
  return {{heads * spec.layout.head_dim, heads}};
}

LinearSpec input_projection(const AttentionSpec& spec, int64_t heads) {
  return {spec.hidden, heads * spec.layout.head_dim, spec.bias, false, spec.init_std,
          Cut::kOut,   head_parts(spec, heads)};
}

std::vector<SplitPart> fused_parts(const AttentionSpec& spec) {
  std::vector<SplitPart> parts;
  for (int64_t heads : {spec.layout.heads, spec.layout.kv_heads, spec.layout.kv_heads})
    parts.push_back({heads * spec.layout.head_dim, heads});
  return parts;
}

ops::AttentionArgs attention_args(const AttentionSpec& spec, const Dropout& dropout, const Tokens& tokens) {
  return {.batch = tokens.batch,
          .sequence = tokens.sequence,
          .layout = local_layout(spec, tokens),
          .scale = spec.scale,
          .window = spec.window,
          .dropout = dropout.args(tokens),
          .part = {.first_head = local_layout(spec, tokens).heads * tokens.ranks().tp_rank()}};
}

Var attend(const Var& qkv, const AttentionSpec& spec, const Dropout& dropout, const Tokens& tokens) {
  ops::AttentionArgs args = attention_args(spec, dropout, tokens);
  if (tokens.cache != nullptr)
    return ops::attention(qkv, args, tokens.cache->layer(tokens.layer), tokens.cache->capacity());
  const Parallel& ranks = tokens.ranks();
  if (ranks.cp == nullptr) return ops::attention(qkv, args, tokens.document_start);
  return ops::context_attention(qkv, args, tokens.document_start, *ranks.cp, ranks.context_method);
}

}  // namespace

Linear::Linear(const std::string& name, const LinearSpec& spec)
    : weight_(name + ".weight", spec.in_out ? Shape{spec.in, spec.out} : Shape{spec.out, spec.in},
              Init::normal(spec.init_std)),
      in_out_(spec.in_out),
      cut_(spec.cut) {
  if (spec.bias) bias_.emplace(name + ".bias", Shape{spec.out}, Init::zeros());
  if (spec.cut == Cut::kNone) return;
  int64_t width = spec.cut == Cut::kOut ? spec.out : spec.in;
  weight_.split.dim = (spec.cut == Cut::kOut) == spec.in_out ? 1 : 0;
  weight_.split.parts = spec.parts.empty() ? std::vector<SplitPart>{{width, width}} : spec.parts;
  weight_.common = CommonGradient::kPartial;
  if (!bias_ || spec.cut == Cut::kIn) return;
  bias_->split = {0, weight_.split.parts};
  bias_->common = CommonGradient::kPartial;
}

Var enter_products(const Var& x, const Tokens& tokens) {
  const Parallel& ranks = tokens.ranks();
  if (ranks.tp == nullptr) return x;
  return ranks.sequence_parallel ? ops::gather_rows(x, tokens.count(), *ranks.tp) : ops::spread(x, *ranks.tp);
}

Var leave_products(const Var& y, const Tokens& tokens) {
  const Parallel& ranks = tokens.ranks();
  if (ranks.tp == nullptr) return y;
  return ranks.sequence_parallel ? ops::sum_to_rows(y, *ranks.tp) : ops::sum(y, *ranks.tp);
}

Norm::Norm(const std::string& name, int64_t width, NormKind kind, double eps)
    : weight_(name + ".weight", {width}, Init::ones()), eps_(static_cast<float>(eps)) {
  weight_.acts_on_rows = true;
  if (kind != NormKind::kLayer) return;
  bias_.emplace(name + ".bias", Shape{width}, Init::zeros());
  bias_->acts_on_rows = true;
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
      q_(prefix + "q_proj", input_projection(spec, spec.layout.heads)),
      k_(prefix + "k_proj", input_projection(spec, spec.layout.kv_heads)),
      v_(prefix + "v_proj", input_projection(spec, spec.layout.kv_heads)),
      o_(prefix + "o_proj", {spec.layout.heads * spec.layout.head_dim, spec.hidden, spec.output_bias, false,
                             spec.init_std, Cut::kIn, head_parts(spec, spec.layout.heads)}),
      dropout_(prefix + "attn_dropout", spec.dropout) {
  if (!spec.head_norm) return;
  q_norm_.emplace(prefix + "q_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
  k_norm_.emplace(prefix + "k_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
  q_norm_->common = k_norm_->common = CommonGradient::kPartial;
}

Var RotaryAttention::forward(const Var& x, const Tokens& tokens) {
  std::array<ops::Projection, 3> weights{q_.projection(tokens), k_.projection(tokens), v_.projection(tokens)};
  ops::HeadLayout layout = local_layout(spec_, tokens);
  Var qkv = ops::linear(enter_products(x, tokens), weights);
  if (q_norm_) qkv = ops::head_norm(qkv, *q_norm_, *k_norm_, layout, static_cast<float>(spec_.norm_eps));
  qkv = ops::rope(qkv, tokens.positions, rope_.table(tokens.positions_end(), x.tape->allocator()), layout);
  return leave_products(o_.forward(attend(qkv, spec_, dropout_, tokens), tokens), tokens);
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
      qkv_(prefix + "c_attn",
           {spec.hidden, spec.layout.width(), spec.bias, true, spec.init_std, Cut::kOut, fused_parts(spec)}),
      o_(prefix + "c_proj", {spec.layout.heads * spec.layout.head_dim, spec.hidden, spec.output_bias, true, output_std,
                             Cut::kIn, head_parts(spec, spec.layout.heads)}),
      dropout_(prefix + "attn_dropout", spec.dropout),
      output_dropout_(prefix + "resid_dropout", spec.output_dropout) {}

Var FusedAttention::forward(const Var& x, const Tokens& tokens) {
  Var qkv = qkv_.forward(enter_products(x, tokens), tokens);
  Var out = o_.forward(attend(qkv, spec_, dropout_, tokens), tokens);
  return output_dropout_.forward(leave_products(out, tokens), tokens);
}

void FusedAttention::collect(std::vector<Param*>& out) {
  collect_linear(qkv_, out);
  collect_linear(o_, out);
}

GatedMlp::GatedMlp(const std::string& prefix, const MlpSpec& spec)
    : gate_(prefix + "gate_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std, Cut::kOut}),
      up_(prefix + "up_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std, Cut::kOut}),
      down_(prefix + "down_proj", {spec.inner, spec.hidden, spec.bias, false, spec.init_std, Cut::kIn}),
      activation_(spec.activation) {}

Var GatedMlp::forward(const Var& x, const Tokens& tokens) {
  std::array<ops::Projection, 2> weights{gate_.projection(tokens), up_.projection(tokens)};
  Var inner = ops::gated(ops::linear(enter_products(x, tokens), weights), activation_);
  return leave_products(down_.forward(inner, tokens), tokens);
}

void GatedMlp::collect(std::vector<Param*>& out) {
  for (Linear* l : {&gate_, &up_}) out.push_back(&l->weight());
  for (Linear* l : {&gate_, &up_})
    if (l->bias() != nullptr) out.push_back(l->bias());
  collect_linear(down_, out);
}

PlainMlp::PlainMlp(const std::string& prefix, const MlpSpec& spec, float output_std)
    : in_(prefix + "c_fc", {spec.hidden, spec.inner, spec.bias, true, spec.init_std, Cut::kOut}),
      out_(prefix + "c_proj", {spec.inner, spec.hidden, spec.bias, true, output_std, Cut::kIn}),
      activation_(spec.activation),
      dropout_(prefix + "dropout", spec.dropout) {}

Var PlainMlp::forward(const Var& x, const Tokens& tokens) {
  Var inner = ops::activation(in_.forward(enter_products(x, tokens), tokens), activation_);
  return dropout_.forward(leave_products(out_.forward(inner, tokens), tokens), tokens);
}

void PlainMlp::collect(std::vector<Param*>& out) {
  collect_linear(in_, out);
  collect_linear(out_, out);
}

}  // namespace automodel::nn

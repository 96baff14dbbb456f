#include "nn/layers.h"

#include <algorithm>
#include <array>

#include "ops/norm.h"
#include "ops/pointwise.h"
#include "ops/row_products.h"
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
  int64_t ranks = spec.cut ? tokens.ranks().tp_size() : 1;
  return {spec.layout.heads / ranks, std::max<int64_t>(1, spec.layout.kv_heads / ranks), spec.layout.head_dim};
}

std::vector<SplitPart> head_parts(const AttentionSpec& spec, int64_t heads) {
  return {{heads * spec.layout.head_dim, heads}};
}

// Of the first products of something that is cut, and of its last one.
Cut by_outputs(bool cut) {
  return cut ? Cut::kOut : Cut::kNone;
}
Cut by_inputs(bool cut) {
  return cut ? Cut::kIn : Cut::kNone;
}

LinearSpec input_projection(const AttentionSpec& spec, int64_t heads) {
  return {spec.hidden,          heads * spec.layout.head_dim, spec.bias, false, spec.init_std,
          by_outputs(spec.cut), head_parts(spec, heads)};
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
          .part = {.first_head = spec.cut ? local_layout(spec, tokens).heads * tokens.ranks().tp_rank() : 0}};
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
  weight_.split.inputs = spec.cut == Cut::kIn;
  weight_.common = CommonGradient::kPartial;
  if (!bias_ || spec.cut == Cut::kIn) return;
  bias_->split = {0, weight_.split.parts};
  bias_->common = CommonGradient::kPartial;
}

Var enter_products(const Var& x, const Tokens& tokens, bool cut) {
  const Parallel& ranks = tokens.ranks();
  if (ranks.tp == nullptr) return x;
  if (cut) return ranks.sequence_parallel ? ops::gather_rows(x, tokens.count(), *ranks.tp) : ops::spread(x, *ranks.tp);
  return ranks.sequence_parallel ? ops::join_rows(x, tokens.count(), *ranks.tp) : x;
}

Var leave_products(const Var& y, const Tokens& tokens, bool cut) {
  const Parallel& ranks = tokens.ranks();
  if (ranks.tp == nullptr) return y;
  if (cut) return ranks.sequence_parallel ? ops::sum_to_rows(y, *ranks.tp) : ops::sum(y, *ranks.tp);
  return ranks.sequence_parallel ? ops::part_of_rows(y, *ranks.tp) : y;
}

Var first_products(const Var& x, std::span<Linear* const> linears, const Tokens& tokens) {
  const Parallel& ranks = tokens.ranks();
  const bool cut = linears[0]->cut() == Cut::kOut;
  std::vector<ops::Projection> weights;
  for (Linear* l : linears) weights.push_back(l->projection(tokens));
  if (cut && ranks.cuts_rows())
    return ops::linear_of_gathered(x, weights, {*ranks.tp, tokens.count(), ranks.overlaps_rows});
  return ops::linear(enter_products(x, tokens, cut), weights);
}

Var last_product(const Var& x, Linear& linear, const Tokens& tokens) {
  const Parallel& ranks = tokens.ranks();
  const bool cut = linear.cut() == Cut::kIn;
  if (cut && ranks.cuts_rows())
    return ops::linear_to_rows(x, linear.projection(tokens), {*ranks.tp, tokens.count(), ranks.overlaps_rows});
  return leave_products(linear.forward(x, tokens), tokens, cut);
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
                             spec.init_std, by_inputs(spec.cut), head_parts(spec, spec.layout.heads)}),
      dropout_(prefix + "attn_dropout", spec.dropout) {
  if (!spec.head_norm) return;
  q_norm_.emplace(prefix + "q_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
  k_norm_.emplace(prefix + "k_norm.weight", Shape{spec.layout.head_dim}, Init::ones());
  if (spec.cut) q_norm_->common = k_norm_->common = CommonGradient::kPartial;
}

Var RotaryAttention::forward(const Var& x, const Tokens& tokens) {
  ops::HeadLayout layout = local_layout(spec_, tokens);
  Var qkv = first_products(x, std::array{&q_, &k_, &v_}, tokens);
  if (q_norm_) qkv = ops::head_norm(qkv, *q_norm_, *k_norm_, layout, static_cast<float>(spec_.norm_eps));
  qkv = ops::rope(qkv, tokens.positions, rope_.table(tokens.positions_end(), x.tape->allocator()), layout);
  return last_product(attend(qkv, spec_, dropout_, tokens), o_, tokens);
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
           {spec.hidden, spec.layout.width(), spec.bias, true, spec.init_std, by_outputs(spec.cut), fused_parts(spec)}),
      o_(prefix + "c_proj", {spec.layout.heads * spec.layout.head_dim, spec.hidden, spec.output_bias, true, output_std,
                             by_inputs(spec.cut), head_parts(spec, spec.layout.heads)}),
      dropout_(prefix + "attn_dropout", spec.dropout),
      output_dropout_(prefix + "resid_dropout", spec.output_dropout) {}

Var FusedAttention::forward(const Var& x, const Tokens& tokens) {
  Var qkv = first_products(x, std::array{&qkv_}, tokens);
  return output_dropout_.forward(last_product(attend(qkv, spec_, dropout_, tokens), o_, tokens), tokens);
}

void FusedAttention::collect(std::vector<Param*>& out) {
  collect_linear(qkv_, out);
  collect_linear(o_, out);
}

GatedMlp::GatedMlp(const std::string& prefix, const MlpSpec& spec)
    : gate_(prefix + "gate_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std, by_outputs(spec.cut)}),
      up_(prefix + "up_proj", {spec.hidden, spec.inner, spec.bias, false, spec.init_std, by_outputs(spec.cut)}),
      down_(prefix + "down_proj", {spec.inner, spec.hidden, spec.bias, false, spec.init_std, by_inputs(spec.cut)}),
      activation_(spec.activation) {}

Var GatedMlp::forward(const Var& x, const Tokens& tokens) {
  Var inner = ops::gated(first_products(x, std::array{&gate_, &up_}, tokens), activation_);
  return last_product(inner, down_, tokens);
}

void GatedMlp::collect(std::vector<Param*>& out) {
  for (Linear* l : {&gate_, &up_}) out.push_back(&l->weight());
  for (Linear* l : {&gate_, &up_})
    if (l->bias() != nullptr) out.push_back(l->bias());
  collect_linear(down_, out);
}

PlainMlp::PlainMlp(const std::string& prefix, const MlpSpec& spec, float output_std)
    : in_(prefix + "c_fc", {spec.hidden, spec.inner, spec.bias, true, spec.init_std, by_outputs(spec.cut)}),
      out_(prefix + "c_proj", {spec.inner, spec.hidden, spec.bias, true, output_std, by_inputs(spec.cut)}),
      activation_(spec.activation),
      dropout_(prefix + "dropout", spec.dropout) {}

Var PlainMlp::forward(const Var& x, const Tokens& tokens) {
  Var inner = ops::activation(first_products(x, std::array{&in_}, tokens), activation_);
  return dropout_.forward(last_product(inner, out_, tokens), tokens);
}

void PlainMlp::collect(std::vector<Param*>& out) {
  collect_linear(in_, out);
  collect_linear(out_, out);
}

}  // namespace automodel::nn

// The layers that decoder blocks are made of. Each owns its Params under `prefix` + the Hugging Face name.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nn/dropout.h"
#include "nn/param.h"
#include "nn/rope.h"
#include "nn/tokens.h"
#include "ops/linear.h"

namespace automodel::nn {

// How tensor-parallel ranks cut a product: each has some of the outputs, or some of the inputs and a part of the sum.
enum class Cut { kNone, kOut, kIn };

struct LinearSpec {
  int64_t in = 0;
  int64_t out = 0;
  bool bias = false;
  bool in_out = false;  // the weight is stored [in, out] (GPT-2's Conv1D)
  float init_std = 0.02f;
  Cut cut = Cut::kNone;
  std::vector<SplitPart> parts = {};  // of what is cut; empty: single elements
};

class Linear {
 public:
  Linear(const std::string& name, const LinearSpec& spec);
  // The rank's part of the product.
  ops::Projection projection(const Tokens& tokens) {
    return {&weight_, bias_ ? &*bias_ : nullptr, in_out_, cut_ != Cut::kIn || tokens.ranks().tp_rank() == 0};
  }
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens) { return ops::linear(x, projection(tokens)); }
  Param& weight() { return weight_; }
  Param* bias() { return bias_ ? &*bias_ : nullptr; }
  Cut cut() const { return cut_; }

 private:
  Param weight_;
  std::optional<Param> bias_;
  bool in_out_;
  Cut cut_;
};

// From what tensor-parallel ranks have of rows [T, D] between the layers to the input of products, and back. `cut`: the
// ranks share these products out, by the outputs of the first ones and the inputs of the last one, whose results are
// parts of a sum; otherwise each of them computes all of them with all rows.
autograd::Var enter_products(const autograd::Var& x, const Tokens& tokens, bool cut);
autograd::Var leave_products(const autograd::Var& y, const Tokens& tokens, bool cut);
// The same with the products themselves: several with the same input, of one cut; and one.
autograd::Var first_products(const autograd::Var& x, std::span<Linear* const> linears, const Tokens& tokens);
autograd::Var last_product(const autograd::Var& x, Linear& linear, const Tokens& tokens);

enum class NormKind { kRms, kLayer };

class Norm {
 public:
  Norm(const std::string& name, int64_t width, NormKind kind, double eps);
  autograd::Var forward(const autograd::Var& x);
  void collect(std::vector<Param*>& out);

 private:
  Param weight_;
  std::optional<Param> bias_;
  float eps_;
};

struct AttentionSpec {
  int64_t hidden = 0;
  ops::HeadLayout layout;    // of the whole layer
  bool bias = false;         // of q, k, v
  bool output_bias = false;  // of o
  bool head_norm = false;    // RMSNorm of each query and key head before the rotation (Qwen3)
  double norm_eps = 1e-6;
  int64_t window = 0;  // sliding window; 0: none
  float scale = 1;
  float init_std = 0.02f;
  double dropout = 0;         // of the attention weights
  double output_dropout = 0;  // of what o gives (GPT-2)
  bool cut = true;            // tensor-parallel ranks share the heads out
};

// Separate q_proj, k_proj, v_proj, o_proj with rotary positions (Llama and its relatives).
class RotaryAttention {
 public:
  RotaryAttention(const std::string& prefix, const AttentionSpec& spec, Rope& rope);
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens);
  void collect(std::vector<Param*>& out);

 private:
  AttentionSpec spec_;
  Rope& rope_;
  Linear q_, k_, v_, o_;
  std::optional<Param> q_norm_, k_norm_;
  Dropout dropout_;
};

// One fused c_attn and c_proj, absolute positions (GPT-2).
class FusedAttention {
 public:
  FusedAttention(const std::string& prefix, const AttentionSpec& spec, float output_std);
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens);
  void collect(std::vector<Param*>& out);

 private:
  AttentionSpec spec_;
  Linear qkv_, o_;
  Dropout dropout_, output_dropout_;
};

struct MlpSpec {
  int64_t hidden = 0;
  int64_t inner = 0;
  bool bias = false;
  ops::Activation activation = ops::Activation::kSilu;
  float init_std = 0.02f;
  double dropout = 0;  // of the output (GPT-2)
  bool cut = true;     // tensor-parallel ranks share the inner width out
};

// down(act(gate(x)) * up(x)).
class GatedMlp {
 public:
  GatedMlp(const std::string& prefix, const MlpSpec& spec);
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens);
  void collect(std::vector<Param*>& out);

 private:
  Linear gate_, up_, down_;
  ops::Activation activation_;
};

// c_proj(act(c_fc(x))) with [in, out] weights (GPT-2).
class PlainMlp {
 public:
  PlainMlp(const std::string& prefix, const MlpSpec& spec, float output_std);
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens);
  void collect(std::vector<Param*>& out);

 private:
  Linear in_, out_;
  ops::Activation activation_;
  Dropout dropout_;
};

}  // namespace automodel::nn

// The pre-norm decoder block: h = x + attention(norm(x)); y = h + mlp(norm(h)).
#pragma once

#include <type_traits>
#include <utility>

#include "nn/block.h"
#include "nn/layers.h"
#include "ops/pointwise.h"

namespace automodel::nn {

template <class Attention, class Mlp>
class DecoderBlock final : public Block {
 public:
  DecoderBlock(Norm attention_norm, Attention attention, Norm mlp_norm, Mlp mlp)
      : attention_norm_(std::move(attention_norm)),
        attention_(std::move(attention)),
        mlp_norm_(std::move(mlp_norm)),
        mlp_(std::move(mlp)) {}

  autograd::Var forward(const autograd::Var& x, const Tokens& tokens) override {
    autograd::Var h = ops::add(x, attention_.forward(attention_norm_.forward(x), tokens));
    return ops::add(h, mlp_.forward(mlp_norm_.forward(h), tokens));
  }

  MoeMlp* experts() override {
    if constexpr (std::is_same_v<Mlp, MoeMlp>)
      return &mlp_;
    else
      return nullptr;
  }
  bool ends_in_sum() const override { return true; }

  std::vector<Param*> params() override {
    std::vector<Param*> out;
    attention_norm_.collect(out);
    attention_.collect(out);
    mlp_norm_.collect(out);
    mlp_.collect(out);
    return out;
  }

 private:
  Norm attention_norm_;
  Attention attention_;
  Norm mlp_norm_;
  Mlp mlp_;
};

}  // namespace automodel::nn

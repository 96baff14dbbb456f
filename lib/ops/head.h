// The language-model head with its loss, fused: logits exist for one chunk of rows at a time.
#pragma once

#include "autograd/tape.h"

namespace automodel::ops {

struct HeadLoss {
  autograd::Var loss;   // f64 [1]: the sum of the token losses, unscaled
  Tensor token_losses;  // f32 [T], 0 where the label is ignored
};

// Cross entropy of x [T, D] against labels i32 [T] (negative: ignored) through the head `weight` [V, D].
// When the tape records, the gradient of grad_scale * loss is computed in the same pass: logits of a chunk (at most 64
// MiB in f32) become their gradient in place, which gives the chunk's dx and its share of the weight's gradient at
// once. So no logits are kept or computed twice, and the reverse pass (whose dy for the loss is taken to be 1) only
// hands dx on.
HeadLoss head_loss(const autograd::Var& x, autograd::Param& weight, const Tensor& labels, float grad_scale);

// logits [rows, V] f32 of x [rows, D]; no gradient.
Tensor head_logits(const Tensor& x, const autograd::Param& weight, Allocator& allocator);

}  // namespace automodel::ops

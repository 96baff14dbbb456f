// The language-model head with its loss, fused: logits exist for one chunk of rows at a time.
#pragma once

#include "autograd/tape.h"
#include "comm/communicator.h"

namespace automodel::ops {

struct HeadLoss {
  autograd::Var loss;   // f64 [1]: the sum of the token losses, unscaled
  Tensor token_losses;  // f32 [T], 0 where the label is ignored
};

// The vocabulary cut over ranks: each has the rows of the head for the tokens from `first` on.
struct VocabularyPart {
  comm::Communicator* ranks = nullptr;  // null: all of it is here
  int64_t first = 0;
  int64_t most = 0;  // tokens that any of the ranks has
};

// Cross entropy of x [T, D] against labels i32 [T] (negative: ignored) through the head `weight` [V, D].
// When the tape records, the gradient of grad_scale * loss is computed in the same pass: logits of a chunk (at most 48
// MiB in f32) become their gradient in place, which gives the chunk's dx and its share of the weight's gradient at
// once. So no logits are kept or computed twice, and the reverse pass (whose dy for the loss is taken to be 1) only
// hands dx on.
// With a part of the vocabulary, the ranks exchange three numbers a row (largest logit, sum of exponentials, logit of
// the label); the loss is that of the whole row on all of them, dx the rank's part of a sum.
HeadLoss head_loss(const autograd::Var& x, autograd::Param& weight, const Tensor& labels, float grad_scale,
                   const VocabularyPart& part = {});

// logits [rows, V] f32 of x [rows, D]; no gradient.
Tensor head_logits(const Tensor& x, const autograd::Param& weight, Allocator& allocator);

// [rows, vocabulary] from the ranks' parts of it, each of the next ceil(vocabulary / n) columns.
Tensor gather_vocabulary(const Tensor& part, int64_t vocabulary, comm::Communicator& ranks);

}  // namespace automodel::ops

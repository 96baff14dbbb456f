// Attention of fp32 numbers, without tensor cores: the same contracts as the table's, for with_type()'s float.
#pragma once

#include "ops/cuda/attention.h"

namespace automodel::ops::cuda::attention {

void forward_f32(const Target& out, float* lse, const HeadColumns& in, const Problem& problem, bool merge);

// delta f32 [batch, heads, sequence]: the inner products of the output and its gradient.
void backward_f32(const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in, const float* lse,
                  const float* delta, const Problem& problem);

}  // namespace automodel::ops::cuda::attention

// Normalisation over the last dim. The results carry a way to be made again, so consumers keep nothing of them.
#pragma once

#include "autograd/tape.h"
#include "ops/kernels.h"

namespace automodel::ops {

// RMSNorm (Zhang & Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w.
autograd::Var rms_norm(const autograd::Var& x, autograd::Param& weight, float eps);

// LayerNorm (Ba et al., 2016) with bias.
autograd::Var layer_norm(const autograd::Var& x, autograd::Param& weight, autograd::Param& bias, float eps);

// RMSNorm of every query head (with `query_weight`) and every key head (`key_weight`) of a fused projection
// qkv [T, layout.width()], in place: the value of `qkv` is overwritten (Qwen3).
autograd::Var head_norm(const autograd::Var& qkv, autograd::Param& query_weight, autograd::Param& key_weight,
                        const HeadLayout& layout, float eps);

}  // namespace automodel::ops

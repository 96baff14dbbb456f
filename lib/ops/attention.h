// Rotary positions and causal attention over a fused projection qkv [T, layout.width()].
#pragma once

#include "autograd/tape.h"
#include "ops/kernels.h"

namespace automodel::ops {

// Angles of rotary positions (Su et al., "RoFormer", 2021), computed once for all layers.
struct RopeTable {
  Tensor cos;  // f32 [positions, rotary / 2]
  Tensor sin;
};

// Rotates query and key heads in place: the value of `qkv` is overwritten. positions i32 [T], all below the table's
// rows.
autograd::Var rope(const autograd::Var& qkv, const Tensor& positions, const RopeTable& table, const HeadLayout& layout);

// Softmax attention; see AttentionArgs for mask and packed documents. `document_start` (undefined: one document per
// row) must match args.batch and args.sequence; args.document_start is set from it. Result [T, heads * head_dim].
autograd::Var attention(const autograd::Var& qkv, AttentionArgs args, const Tensor& document_start);

}  // namespace automodel::ops

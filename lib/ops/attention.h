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

// Throws Error(kShape) when qkv is not what args says, or its heads are too wide for the kernels.
void check_attention(const autograd::Var& qkv, const AttentionArgs& args);

// Softmax attention; see AttentionArgs for mask, packed documents and dropout. `document_start` (undefined: one
// document per row) must match args.batch and args.sequence; args.document_start is set from it. Result [T, heads *
// head_dim].
autograd::Var attention(const autograd::Var& qkv, AttentionArgs args, const Tensor& document_start);

// What generation keeps of one layer. A layer with a sliding window keeps one window, as a ring.
struct KeyValues {
  Tensor keys;  // [batch * kv_heads, slots, head_dim] in the compute type; undefined before the first use
  Tensor values;
  int64_t length = 0;  // positions seen
};

// Attention of positions that follow those of `past`, which gains them. The first call takes any number of positions
// and allocates for `capacity` of them; later ones take one (args.sequence = 1). On a tape that does not record.
autograd::Var attention(const autograd::Var& qkv, const AttentionArgs& args, KeyValues& past, int64_t capacity);

}  // namespace automodel::ops

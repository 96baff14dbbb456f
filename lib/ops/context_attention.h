// Attention whose sequence is spread over ranks (context parallelism) in the head-tail layout (context_chunks.h).
#pragma once

#include "comm/communicator.h"
#include "ops/attention.h"

namespace automodel::ops {

enum class ContextMethod {
  // Keys and values of all ranks are gathered, in the backward again; their gradients are summed over the ranks in f32
  // by one reduce-scatter. Memory of all keys and values, for one layer at a time.
  kAllGather,
  // Keys and values travel from rank to rank beneath the attention over those that came before, and results are merged
  // by their log-sum-exp (Liu et al., "Ring Attention with Blockwise Transformers", 2023). In the backward the
  // gradients of keys and values travel along, in f32. Memory of two ranks' keys and values.
  kRing,
  // Every rank attends over whole rows for its share of the heads, and tokens are dealt out again by two all-to-alls
  // (Jacobs et al., "DeepSpeed Ulysses", 2023). Keys and values are copied when there are fewer heads of them than
  // ranks; their gradients are then summed in f32. Needs scatters_heads().
  kAllToAll,
};

// Whether kAllToAll can deal the heads to `ranks` ranks: heads % ranks == 0, and kv_heads % ranks == 0 or
// ranks % kv_heads == 0.
bool scatters_heads(const HeadLayout& layout, int ranks);

// ops::attention() of whole rows, of which this rank of `cp` has two chunks each: qkv [batch * args.sequence, width()]
// with args.sequence = 2 chunks, rotated already. document_start i32 [batch, args.sequence] (undefined: one document
// per row) holds positions in the whole row, as do the masks of dropout; args.part but for first_head is not used.
// Result [batch * args.sequence, heads * head_dim]. Collective over `cp`, which must outlive the tape; with one rank it
// is ops::attention() itself.
autograd::Var context_attention(const autograd::Var& qkv, const AttentionArgs& args, const Tensor& document_start,
                                comm::Communicator& cp, ContextMethod method);

}  // namespace automodel::ops

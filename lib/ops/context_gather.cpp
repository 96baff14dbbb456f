// Context attention by gathering all keys and values. They are put into the order of the row, so that each half of the
// local queries is one rectangular attention that gives what attention over the whole row gives them.
#include "ops/context_call.h"

namespace automodel::ops::context {
namespace {

// Keys and values of the whole rows.
Tensor gather_keys(const Call& call, const Tensor& qkv) {
  Tensor ranked = call.message({call.whole_rows(), 2 * call.kv_width()}, qkv.dtype());
  Tensor own = ranked.narrow(call.cp.rank() * call.local_rows(), call.local_rows());
  call.kernels.copy_columns(own, call.kv_of(qkv));
  call.cp.all_gather(buffer_of(ranked), buffer_of(own));
  Tensor whole = call.activation(ranked.shape(), qkv.dtype());
  call.order(whole, ranked);
  return whole;
}

// Up to the last key that a half's queries see.
int64_t keys_of(const Call& call, int half) {
  return (call.chunk_of(half) + 1) * call.chunk();
}

}  // namespace

void gather_forward(Call& call, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  Tensor kv = gather_keys(call, qkv);
  Tensor q = qkv.columns(0, call.query_width());
  for (int half : {0, 1}) {
    AttentionArgs args = call.queries_of(half);
    args.part.keys = keys_of(call, half);
    args.part.key_rows = call.whole_sequence();
    call.kernels.attention_forward(call.half_of(out, half), call.lse_of(lse, half), call.columns(q, half, kv), args,
                                   false);
  }
}

Tensor gather_backward(Call& call, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  Tensor dqkv = call.activation(qkv.shape(), qkv.dtype());
  Tensor kv = gather_keys(call, qkv), dkv = call.activation(kv.shape(), DType::kF32);
  Tensor q = qkv.columns(0, call.query_width()), dq = dqkv.columns(0, call.query_width());
  for (int half : {1, 0}) {
    AttentionArgs args = call.queries_of(half);
    // The first call writes the gradients of all keys, also of those that it does not see.
    bool first = half == 1;
    args.part.keys = first ? call.whole_sequence() : keys_of(call, half);
    args.part.key_rows = call.whole_sequence();
    call.kernels.attention_backward({.to = call.columns(dq, half, dkv), .accumulate_kv = !first},
                                    call.half_of(dout, half), call.columns(q, half, kv), call.half_of(out, half),
                                    call.lse_of(lse, half), args);
  }
  kv = {};
  Tensor ranked = call.message({call.whole_rows(), 2 * call.kv_width()}, DType::kF32);
  call.unorder(ranked, dkv);
  dkv = {};
  Tensor own = ranked.narrow(call.cp.rank() * call.local_rows(), call.local_rows());
  call.cp.reduce_scatter(buffer_of(own), buffer_of(ranked), comm::Reduce::kSum);
  call.kernels.copy_columns(call.kv_of(dqkv), own);
  return dqkv;
}

}  // namespace automodel::ops::context

#include "ops/attention.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Var;

void check_attention(const Var& qkv, const AttentionArgs& args) {
  constexpr int64_t kMaxHeadDim = 256;  // the tiles of the CPU kernels (cpu/attention_product.h) hold no more
  const HeadLayout& layout = args.layout;
  AM_CHECK(qkv.value.cols() == layout.width() && qkv.value.rows() == args.batch * args.sequence, Fault::kShape,
           "attention: qkv has shape {}, expected [{}, {}]", qkv.value.shape().str(), args.batch * args.sequence,
           layout.width());
  AM_CHECK(layout.head_dim <= kMaxHeadDim, Fault::kShape, "attention: head_dim is {}; the kernels take at most {}",
           layout.head_dim, kMaxHeadDim);
}

Var rope(const Var& qkv, const Tensor& positions, const RopeTable& table, const HeadLayout& layout) {
  const Kernels& k = kernels(qkv.value.device());
  int64_t heads = layout.heads + layout.kv_heads;
  Tensor rotated = qkv.tape->writable(qkv.value);
  k.rope(rotated, positions, table.cos, table.sin, heads, layout.head_dim, false);
  return qkv.tape->record("rope", rotated, {qkv}, false, {},
                          [positions, table, heads, head_dim = layout.head_dim, &k](Gradients& g) {
                            Tensor dx = std::move(g.dy());
                            if (!dx.unique()) dx = dx.clone();
                            k.rope(dx, positions, table.cos, table.sin, heads, head_dim, true);
                            g.pass(0, std::move(dx));
                          });
}

Var attention(const Var& qkv, AttentionArgs args, const Tensor& document_start) {
  check_attention(qkv, args);
  const HeadLayout& layout = args.layout;
  const Kernels& k = kernels(qkv.value.device());
  Allocator& allocator = qkv.tape->allocator();
  args.document_start = document_start.defined() ? &document_start : nullptr;
  auto [out, lse] = qkv.tape->made("attention", autograd::Work::kAttention, [&] {
    Tensor out = Tensor::empty({qkv.value.rows(), layout.heads * layout.head_dim}, qkv.value.dtype(), allocator);
    Tensor lse = Tensor::empty({args.batch, layout.heads, args.sequence}, DType::kF32, allocator);
    k.attention_forward(out, lse, fused_columns(qkv.value, layout), args, false);
    return std::array{out, lse};
  });

  Tensor samples = args.dropout.p > 0 ? *args.dropout.samples : Tensor{};
  return qkv.tape->record("attention", out, {qkv}, false, {qkv.value, out, lse},
                          [args, document_start, samples, &k](Gradients& g) {
                            AttentionArgs again = args;
                            again.dropout.samples = &samples;
                            again.document_start = document_start.defined() ? &document_start : nullptr;
                            Tensor dqkv = Tensor::empty(g.saved(0).shape(), g.saved(0).dtype(), g.allocator());
                            k.attention_backward({fused_columns(dqkv, args.layout)}, g.dy(),
                                                 fused_columns(g.saved(0), args.layout), g.saved(1), g.saved(2), again);
                            g.pass(0, std::move(dqkv));
                          });
}

Var attention(const Var& qkv, const AttentionArgs& args, KeyValues& past, int64_t capacity) {
  check_attention(qkv, args);
  AM_CHECK(!qkv.tape->recording(), Fault::kBug, "attention with kept keys and values has no gradient");
  AM_CHECK((past.length == 0 || args.sequence == 1) && past.length + args.sequence <= capacity, Fault::kBug,
           "attention: {} positions cannot follow {} of at most {}", args.sequence, past.length, capacity);
  const HeadLayout& layout = args.layout;
  const Kernels& k = kernels(qkv.value.device());
  Allocator& allocator = qkv.tape->allocator();
  if (!past.keys.defined()) {
    int64_t slots = args.window > 0 ? std::min(args.window, capacity) : capacity;
    Shape shape{args.batch * layout.kv_heads, slots, layout.head_dim};
    past.keys = Tensor::empty(shape, qkv.value.dtype(), allocator);
    past.values = Tensor::empty(shape, qkv.value.dtype(), allocator);
  }
  k.cache_write(past.keys, past.values, qkv.value, layout, past.length);
  Var out = past.length == 0
                ? attention(qkv, args, {})
                : Var{Tensor::empty({args.batch, layout.heads * layout.head_dim}, qkv.value.dtype(), allocator),
                      -1,
                      qkv.tape,
                      {}};
  if (past.length > 0)
    k.attention_decode(out.value, qkv.value, past.keys, past.values, layout,
                       std::min(past.length + 1, past.keys.size(1)), args.scale);
  past.length += args.sequence;
  return out;
}

}  // namespace automodel::ops

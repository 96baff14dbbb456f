#include "ops/attention.h"

#include "core/error.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Var;

namespace {

constexpr int64_t kMaxHeadDim = 256;  // the tiles of the CPU kernels (cpu/attention_product.h) hold no more

}  // namespace

Var rope(const Var& qkv, const Tensor& positions, const RopeTable& table, const HeadLayout& layout) {
  const Kernels& k = kernels(qkv.value.device());
  int64_t heads = layout.heads + layout.kv_heads;
  k.rope(qkv.value, positions, table.cos, table.sin, heads, layout.head_dim, false);
  return qkv.tape->record("rope", qkv.value, {qkv}, false, {},
                          [positions, table, heads, head_dim = layout.head_dim, &k](Gradients& g) {
                            Tensor dx = std::move(g.dy());
                            if (!dx.unique()) dx = dx.clone();
                            k.rope(dx, positions, table.cos, table.sin, heads, head_dim, true);
                            g.pass(0, std::move(dx));
                          });
}

Var attention(const Var& qkv, AttentionArgs args, const Tensor& document_start) {
  const HeadLayout& layout = args.layout;
  AM_CHECK(qkv.value.cols() == layout.width() && qkv.value.rows() == args.batch * args.sequence, Fault::kShape,
           "attention: qkv has shape {}, expected [{}, {}]", qkv.value.shape().str(), args.batch * args.sequence,
           layout.width());
  AM_CHECK(layout.head_dim <= kMaxHeadDim, Fault::kShape, "attention: head_dim is {}; the kernels take at most {}",
           layout.head_dim, kMaxHeadDim);
  const Kernels& k = kernels(qkv.value.device());
  Allocator& allocator = qkv.tape->allocator();
  Tensor out = Tensor::empty({qkv.value.rows(), layout.heads * layout.head_dim}, qkv.value.dtype(), allocator);
  Tensor lse = Tensor::empty({args.batch, layout.heads, args.sequence}, DType::kF32, allocator);
  args.document_start = document_start.defined() ? &document_start : nullptr;
  k.attention_forward(out, lse, qkv.value, args);

  return qkv.tape->record("attention", out, {qkv}, false, {qkv.value, out, lse},
                          [args, document_start, &k](Gradients& g) {
                            AttentionArgs again = args;
                            again.document_start = document_start.defined() ? &document_start : nullptr;
                            Tensor dqkv = Tensor::empty(g.saved(0).shape(), g.saved(0).dtype(), g.allocator());
                            k.attention_backward(dqkv, g.dy(), g.saved(0), g.saved(1), g.saved(2), again);
                            g.pass(0, std::move(dqkv));
                          });
}

}  // namespace automodel::ops

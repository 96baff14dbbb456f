#include "ops/context_attention.h"

#include <array>

#include "core/error.h"
#include "ops/context_call.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Var;
using context::Call;

namespace {

void check(const Var& qkv, const AttentionArgs& args, const Tensor& document_start) {
  check_attention(qkv, args);
  AM_CHECK(args.sequence % 2 == 0, Fault::kShape, "context attention: rows of {} tokens are not two chunks",
           args.sequence);
  AM_CHECK(!document_start.defined() || document_start.shape() == Shape({args.batch, args.sequence}), Fault::kShape,
           "context attention: document_start has shape {}, expected [{}, {}]", document_start.shape().str(),
           args.batch, args.sequence);
}

Tensor empty_out(const Call& call, const Var& qkv) {
  return call.activation({call.local_rows(), call.query_width()}, qkv.value.dtype());
}

Var with_scattered_heads(const Var& qkv, Call call) {
  const HeadLayout& layout = call.args.layout;
  AM_CHECK(scatters_heads(layout, call.cp.size()), Fault::kConfig,
           "context parallelism by all-to-all: {} query and {} key/value heads cannot be dealt to {} ranks; exchange "
           "keys and values by ring or all-gather instead",
           layout.heads, layout.kv_heads, call.cp.size());
  auto [out, whole, whole_out, lse, starts] = qkv.tape->made("context_attention", autograd::Work::kAttention, [&] {
    Tensor out = empty_out(call, qkv);
    context::Scattered kept = context::scatter_forward(call, qkv.value, out);
    return std::array{out, kept.qkv, kept.out, kept.lse, kept.document_start};
  });
  return qkv.tape->record("context_attention", std::move(out), {qkv}, false, {whole, whole_out, lse, starts},
                          [call](Gradients& g) mutable {
                            context::Scattered kept{g.saved(0), g.saved(1), g.saved(2), g.saved(3)};
                            g.pass(0, context::scatter_backward(call, g.dy(), kept));
                          });
}

Var with_exchanged_keys(const Var& qkv, Call call, ContextMethod method) {
  bool ring = method == ContextMethod::kRing;
  auto [out, lse] = qkv.tape->made("context_attention", autograd::Work::kAttention, [&] {
    Tensor out = empty_out(call, qkv), lse = call.empty_lse();
    (ring ? context::ring_forward : context::gather_forward)(call, qkv.value, out, lse);
    return std::array{out, lse};
  });
  return qkv.tape->record("context_attention", out, {qkv}, false, {qkv.value, out, lse},
                          [call, ring](Gradients& g) mutable {
                            auto backward = ring ? context::ring_backward : context::gather_backward;
                            g.pass(0, backward(call, g.dy(), g.saved(0), g.saved(1), g.saved(2)));
                          });
}

}  // namespace

bool scatters_heads(const HeadLayout& layout, int ranks) {
  return layout.heads % ranks == 0 && (layout.kv_heads % ranks == 0 || ranks % layout.kv_heads == 0);
}

Var context_attention(const Var& qkv, const AttentionArgs& args, const Tensor& document_start, comm::Communicator& cp,
                      ContextMethod method) {
  if (cp.size() == 1) return attention(qkv, args, document_start);
  check(qkv, args, document_start);
  Call call(args, document_start, cp, qkv.tape->allocator());
  if (method == ContextMethod::kAllToAll) return with_scattered_heads(qkv, std::move(call));
  return with_exchanged_keys(qkv, std::move(call), method);
}

}  // namespace automodel::ops

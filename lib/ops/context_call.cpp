#include "ops/context_call.h"

namespace automodel::ops::context {
namespace {

// copy(whole rows, ranked rows) for every chunk.
template <class F>
void for_each_chunk(const Call& call, F&& copy_chunk) {
  for (int rank = 0; rank < call.chunks.ranks; ++rank)
    for (int64_t row = 0; row < call.args.batch; ++row)
      for (int half = 0; half < 2; ++half)
        copy_chunk((row * call.chunks.count() + call.chunks.of(rank, half)) * call.chunk(),
                   ((rank * call.args.batch + row) * 2 + half) * call.chunk());
}

}  // namespace

Call::Call(const AttentionArgs& args, const Tensor& document_start, comm::Communicator& cp, Allocator& allocator)
    : args(args),
      document_start(document_start),
      samples(args.dropout.p > 0 ? *args.dropout.samples : Tensor{}),
      cp(cp),
      allocator(allocator),
      kernels(ops::kernels(allocator.device())),
      chunks{cp.size()} {
  if (document_start.defined())
    half_starts_ = {document_start.columns(0, chunk()), document_start.columns(chunk(), chunk())};
}

Tensor Call::activation(Shape shape, DType dtype) const {
  return Tensor::empty(shape, dtype, allocator);
}

Tensor Call::message(Shape shape, DType dtype) const {
  return Tensor::empty(shape, dtype, allocator, MemoryClass::kCommunication);
}

Tensor Call::half_of(const Tensor& local, int half) const {
  if (half == 0 || local.rows() == 0) return local;
  return local.narrow(chunk(), local.rows() - chunk());
}

HeadColumns Call::half_of(const HeadColumns& local, int half) const {
  return {half_of(local.q, half), half_of(local.k, half), half_of(local.v, half)};
}

HeadColumns Call::columns(const Tensor& q, int half, const Tensor& kv) const {
  return {half_of(q, half), kv.columns(0, kv_width()), kv.columns(kv_width(), kv_width())};
}

Tensor Call::empty_lse() const {
  return activation({2, args.batch, args.layout.heads, chunk()}, DType::kF32);
}

Tensor Call::lse_of(const Tensor& lse, int half) const {
  return lse.narrow(half, 1).view({args.batch, args.layout.heads, chunk()});
}

AttentionArgs Call::queries_of(int half) {
  AttentionArgs part = args;
  part.sequence = chunk();
  part.document_start = document_start.defined() ? &half_starts_[static_cast<size_t>(half)] : nullptr;
  part.dropout.samples = &samples;
  part.part = {
      .first_query = chunk_of(half) * chunk(), .query_rows = args.sequence, .first_head = args.part.first_head};
  return part;
}

void Call::order(const Tensor& whole, const Tensor& ranked) const {
  for_each_chunk(*this,
                 [&](int64_t to, int64_t from) { copy(whole.narrow(to, chunk()), ranked.narrow(from, chunk())); });
}

void Call::unorder(const Tensor& ranked, const Tensor& whole) const {
  for_each_chunk(*this,
                 [&](int64_t from, int64_t to) { copy(ranked.narrow(to, chunk()), whole.narrow(from, chunk())); });
}

}  // namespace automodel::ops::context

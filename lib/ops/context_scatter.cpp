// Context attention by all-to-all. Rank d attends over whole rows for query heads d H/C .. (d+1) H/C - 1 and the
// key/value heads that these read; with fewer key/value heads than ranks, C / K ranks have a copy of the same one.
#include <vector>

#include "ops/context_call.h"

namespace automodel::ops::context {
namespace {

// The heads of every rank.
struct Deal {
  explicit Deal(const Call& call) : ranks(call.cp.size()), all(call.args.layout) {
    own = {all.heads / ranks, all.kv_heads < ranks ? 1 : all.kv_heads / ranks, all.head_dim};
    copies = all.kv_heads < ranks ? static_cast<int>(ranks / all.kv_heads) : 1;
  }
  int ranks;
  HeadLayout all;
  HeadLayout own;  // of one rank
  int copies;      // ranks that have the same key/value head

  int64_t q_width() const { return own.heads * own.head_dim; }
  int64_t kv_width() const { return own.kv_heads * own.head_dim; }
  // Columns of rank's keys among all keys.
  int64_t kv_begin(int rank) const { return rank * all.kv_heads / ranks * all.head_dim; }
};

// What `ranked` has for each rank goes there; the result has what came from each rank.
class AllToAll {
 public:
  AllToAll(const Call& call, Tensor ranked)
      : send_(std::move(ranked)), receive_(call.message(send_.shape(), send_.dtype())), pending_(start(call.cp)) {}
  Tensor wait() {
    pending_.wait();
    return receive_;
  }

 private:
  comm::Pending start(comm::Communicator& cp) const {
    std::vector<int64_t> bytes(static_cast<size_t>(cp.size()), static_cast<int64_t>(send_.bytes()) / cp.size());
    return cp.start_all_to_all(buffer_of(receive_), buffer_of(send_), bytes, bytes);
  }

  Tensor send_;
  Tensor receive_;
  comm::Pending pending_;
};

Tensor to_ranked(const Call& call, const Tensor& whole) {
  Tensor ranked = call.message(whole.shape(), whole.dtype());
  call.unorder(ranked, whole);
  return ranked;
}

Tensor to_whole(const Call& call, const Tensor& ranked) {
  Tensor whole = call.activation(ranked.shape(), ranked.dtype());
  call.order(whole, ranked);
  return whole;
}

// The rows of a ranked matrix that are to or from `rank`.
Tensor rows_of(const Call& call, const Tensor& ranked, int rank) {
  return ranked.narrow(rank * call.local_rows(), call.local_rows());
}

Tensor whole_starts(const Call& call) {
  Tensor ranked = call.message({call.whole_rows(), 1}, DType::kI32);
  call.cp.all_gather(buffer_of(ranked), buffer_of(call.document_start));
  return to_whole(call, ranked).view({call.args.batch, call.whole_sequence()});
}

AttentionArgs whole_args(Call& call, const Deal& deal, const Scattered& s) {
  AttentionArgs args = call.args;
  args.sequence = call.whole_sequence();
  args.layout = deal.own;
  args.document_start = s.document_start.defined() ? &s.document_start : nullptr;
  args.dropout.samples = &call.samples;
  args.part = {.first_head = call.args.part.first_head + call.cp.rank() * deal.own.heads};
  return args;
}

// Sums the parts from `first` on, in the order of a reduction over ranks (comm/communicator.h), into the first.
Tensor sum_parts(const Call& call, const Tensor& ranked, int first, int count) {
  for (int step = 1; step < count; step *= 2)
    for (int i = 0; i + step < count; i += 2 * step) {
      Tensor to = rows_of(call, ranked, first + i);
      call.kernels.add(to, to, rows_of(call, ranked, first + i + step));
    }
  return rows_of(call, ranked, first);
}

}  // namespace

Scattered scatter_forward(Call& call, const Tensor& qkv, const Tensor& out) {
  Deal deal(call);
  Scattered s;
  {
    Tensor send = call.message({call.whole_rows(), deal.own.width()}, qkv.dtype());
    HeadColumns from = fused_columns(qkv, deal.all);
    for (int rank = 0; rank < deal.ranks; ++rank) {
      HeadColumns to = fused_columns(rows_of(call, send, rank), deal.own);
      call.kernels.copy_columns(to.q, from.q.columns(rank * deal.q_width(), deal.q_width()));
      call.kernels.copy_columns(to.k, from.k.columns(deal.kv_begin(rank), deal.kv_width()));
      call.kernels.copy_columns(to.v, from.v.columns(deal.kv_begin(rank), deal.kv_width()));
    }
    s.qkv = to_whole(call, AllToAll(call, std::move(send)).wait());
  }
  if (call.document_start.defined()) s.document_start = whole_starts(call);
  s.out = call.activation({call.whole_rows(), deal.q_width()}, qkv.dtype());
  s.lse = call.activation({call.args.batch, deal.own.heads, call.whole_sequence()}, DType::kF32);
  call.kernels.attention_forward(s.out, s.lse, fused_columns(s.qkv, deal.own), whole_args(call, deal, s), false);
  Tensor received = AllToAll(call, to_ranked(call, s.out)).wait();
  for (int rank = 0; rank < deal.ranks; ++rank)
    call.kernels.copy_columns(out.columns(rank * deal.q_width(), deal.q_width()), rows_of(call, received, rank));
  return s;
}

Tensor scatter_backward(Call& call, const Tensor& dout, const Scattered& kept) {
  Deal deal(call);
  DType dtype = dout.dtype();
  Tensor dq = call.activation({call.whole_rows(), deal.q_width()}, dtype);
  // Complete gradients are rounded once; the parts of several ranks are summed first.
  Tensor dkv = call.activation({call.whole_rows(), 2 * deal.kv_width()}, deal.copies > 1 ? DType::kF32 : dtype);
  {
    Tensor send = call.message({call.whole_rows(), deal.q_width()}, dtype);
    for (int rank = 0; rank < deal.ranks; ++rank)
      call.kernels.copy_columns(rows_of(call, send, rank), dout.columns(rank * deal.q_width(), deal.q_width()));
    Tensor whole = to_whole(call, AllToAll(call, std::move(send)).wait());
    HeadColumns to{dq, dkv.columns(0, deal.kv_width()), dkv.columns(deal.kv_width(), deal.kv_width())};
    call.kernels.attention_backward({to}, whole, fused_columns(kept.qkv, deal.own), kept.out, kept.lse,
                                    whole_args(call, deal, kept));
  }
  AllToAll queries(call, to_ranked(call, dq)), keys(call, to_ranked(call, dkv));
  dq = dkv = {};
  Tensor dqkv = call.activation({call.local_rows(), deal.all.width()}, dtype);
  HeadColumns to = fused_columns(dqkv, deal.all);
  Tensor received = queries.wait();
  for (int rank = 0; rank < deal.ranks; ++rank)
    call.kernels.copy_columns(to.q.columns(rank * deal.q_width(), deal.q_width()), rows_of(call, received, rank));
  received = keys.wait();
  for (int rank = 0; rank < deal.ranks; rank += deal.copies) {
    Tensor part = sum_parts(call, received, rank, deal.copies);
    call.kernels.copy_columns(to.k.columns(deal.kv_begin(rank), deal.kv_width()), part.columns(0, deal.kv_width()));
    call.kernels.copy_columns(to.v.columns(deal.kv_begin(rank), deal.kv_width()),
                              part.columns(deal.kv_width(), deal.kv_width()));
  }
  return dqkv;
}

}  // namespace automodel::ops::context

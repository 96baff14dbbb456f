// Context attention with keys and values on a ring. In step s a rank works on those that began on the rank s before it,
// while they travel on to the next rank. With the head-tail layout every rank has two chunk pairs to compute in every
// step but the first, which has three, two of them triangles. Results over the blocks are merged by their log-sum-exp
// in f32, by the kernel itself.
// In the backward a block's gradients follow it one step behind: each rank computes its share, adds what arrived from
// the ranks before, and sends the sum on while it computes the next share. After all ranks the sum is with the owner.
#include <utility>

#include "ops/context_call.h"

namespace automodel::ops::context {
namespace {

constexpr int kKeysTag = 0, kGradientsTag = 1;

// The chunk of `owner`'s block that half `key` is, for the queries of half `query`.
struct Pair {
  int query;
  int key;
  int owner;
};

bool sees(const Call& call, const Pair& pair) {
  int64_t chunks_between = call.chunk_of(pair.query) - call.chunks.of(pair.owner, pair.key);
  // Positions from the last of these keys to the first of these queries.
  int64_t nearest = (chunks_between - 1) * call.chunk() + 1;
  return chunks_between >= 0 && (call.args.window == 0 || nearest < call.args.window);
}

AttentionArgs args_of(Call& call, const Pair& pair) {
  AttentionArgs args = call.queries_of(pair.query);
  args.part.keys = call.chunk();
  args.part.first_key = call.chunks.of(pair.owner, pair.key) * call.chunk();
  args.part.key_rows = call.args.sequence;
  return args;
}

class Ring {
 public:
  explicit Ring(comm::Communicator& cp) : cp_(cp) {}
  int steps() const { return cp_.size(); }
  int owner(int step) const { return (cp_.rank() - step + cp_.size()) % cp_.size(); }
  comm::Pending move(const Tensor& to_next, const Tensor& from_previous, int tag) const {
    int next = (cp_.rank() + 1) % cp_.size(), previous = (cp_.rank() + cp_.size() - 1) % cp_.size();
    const comm::Transfer transfers[] = {comm::Transfer::send(next, buffer_of(to_next), tag),
                                        comm::Transfer::receive(previous, buffer_of(from_previous), tag)};
    return cp_.start_exchange(transfers);
  }

 private:
  comm::Communicator& cp_;
};

// f(pair, kv, begun) for every pair with something to see, as the blocks come by; kv is the block of the pair's owner
// from the first row of its half on. `begun`: the queries have been in an earlier pair. after_step(step) follows.
template <class F, class G>
void go_round(Call& call, const Tensor& qkv, F&& work, G&& after_step) {
  Ring ring(call.cp);
  Tensor block = call.message({call.local_rows(), 2 * call.kv_width()}, qkv.dtype());
  Tensor next = call.message(block.shape(), qkv.dtype());
  call.kernels.copy_columns(block, call.kv_of(qkv));
  bool begun[2] = {false, false};
  for (int step = 0; step < ring.steps(); ++step) {
    comm::Pending moving;
    if (step + 1 < ring.steps()) moving = ring.move(block, next, kKeysTag);
    for (int query : {0, 1})
      for (int key : {0, 1}) {
        Pair pair{query, key, ring.owner(step)};
        if (!sees(call, pair)) continue;
        work(pair, call.half_of(block, key), begun[query]);
        begun[query] = true;
        moving.ready();
      }
    after_step(step);
    moving.wait();
    std::swap(block, next);
  }
}

}  // namespace

void ring_forward(Call& call, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  bool rounds = qkv.dtype() != DType::kF32;
  Tensor sums = rounds ? call.activation(out.shape(), DType::kF32) : out;
  Tensor q = qkv.columns(0, call.query_width());
  auto work = [&](const Pair& pair, const Tensor& kv, bool begun) {
    call.kernels.attention_forward(call.half_of(sums, pair.query), call.lse_of(lse, pair.query),
                                   call.columns(q, pair.query, kv), args_of(call, pair), begun);
  };
  go_round(call, qkv, work, [](int) {});
  if (rounds) call.kernels.cast(out, sums);
}

Tensor ring_backward(Call& call, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  bool rounds = qkv.dtype() != DType::kF32;
  Tensor dqkv = call.activation(qkv.shape(), qkv.dtype());
  Tensor q = qkv.columns(0, call.query_width());
  Tensor dq = rounds ? call.activation(out.shape(), DType::kF32) : dqkv.columns(0, call.query_width());
  Shape block{call.local_rows(), 2 * call.kv_width()};
  Tensor share = call.message(block, DType::kF32), sent = call.message(block, DType::kF32);
  Tensor arrived = call.message(block, DType::kF32);
  Ring ring(call.cp);
  comm::Pending moving;
  zero(share);
  auto work = [&](const Pair& pair, const Tensor& kv, bool begun) {
    AttentionGradients to{.to = call.columns(dq, pair.query, call.half_of(share, pair.key)),
                          .accumulate_q = begun,
                          .accumulate_kv = true};
    call.kernels.attention_backward(to, call.half_of(dout, pair.query), call.columns(q, pair.query, kv),
                                    call.half_of(out, pair.query), call.lse_of(lse, pair.query), args_of(call, pair));
    moving.ready();
  };
  auto pass_on = [&](int step) {
    moving.wait();
    if (step > 0) call.kernels.add(share, arrived, share);
    moving = ring.move(share, arrived, kGradientsTag);
    std::swap(share, sent);
    if (step + 1 < ring.steps()) zero(share);
  };
  go_round(call, qkv, work, pass_on);
  moving.wait();
  call.kernels.copy_columns(call.kv_of(dqkv), arrived);
  if (rounds) call.kernels.copy_columns(dqkv.columns(0, call.query_width()), dq);
  return dqkv;
}

}  // namespace automodel::ops::context

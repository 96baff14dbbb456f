// Forward attention: each task is one tile of queries of one head, which walks over the tiles of keys that it sees with
// the online softmax of FlashAttention. Tasks write disjoint outputs, so nothing depends on the number of threads.
// Scores are kept in units of log 2 (the queries are scaled by log2(e) with the softmax scale) so that exp is exp2.
#include <cfloat>
#include <cmath>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/scratch.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace attention {
namespace {

struct Work {
  alignas(64) HeadTile keys;
  HeadTile values;
  HeadLanes queries;
  HeadLanes sum;
  LaneTile scores;
  float highest[kTile];
  float total[kTile];
  float rescale[kTile];
  Queries q;
  Keys k;
};

// Replaces the scores of one vector of lanes of a block by weights, and moves highest, total and rescale on.
template <bool kMasked>
void soften(Work& w, const Block& b, int v) {
  float* scores = w.scores + v * kLanes;
  VecF old = load(w.highest + v * kLanes);
  VecF highest = old;
  for (int r = b.begin; r < b.end; ++r) {
    VecF s = load(scores + r * kTile);
    if constexpr (kMasked) s = sees(w.q, v, w.k.first + r) ? s : all(-FLT_MAX);
    highest = larger(highest, s);
  }
  VecF rescale = exp2(old - highest);
  VecF total{};
  for (int r = b.begin; r < b.end; ++r) {
    VecF p = exp2(load(scores + r * kTile) - highest);
    if constexpr (kMasked) p = sees(w.q, v, w.k.first + r) ? p : VecF{};
    total += p;
    store(scores + r * kTile, p);
  }
  store(w.highest + v * kLanes, highest);
  store(w.total + v * kLanes, load(w.total + v * kLanes) * rescale + total);
  store(w.rescale + v * kLanes, rescale);
}

template <class T>
void forward_tile(Work& w, const T* rows, float* lse, T* out, int64_t head, const AttentionArgs& args) {
  const HeadLayout& layout = args.layout;
  int64_t d = layout.head_dim, width = layout.width(), kv = head / (layout.heads / layout.kv_heads);
  const T* keys = rows + (layout.heads + kv) * d;
  const T* values = keys + layout.kv_heads * d;

  read_rows(w.keys, rows + w.q.first * width + head * d, width, w.q.count, d);
  rows_to_lanes(w.queries, w.keys, w.q.count, d, args.scale * kLog2E);
  for (int i = 0; i < kTile; ++i) w.highest[i] = -FLT_MAX, w.total[i] = 0;
  std::memset(w.sum, 0, sizeof(float) * d * kTile);

  for (int64_t tile = first_key_tile(w.q); tile <= w.q.first / kTile; ++tile) {
    set_keys(w.k, w.q, tile);
    read_rows(w.keys, keys + w.k.first * width, width, w.k.count, d);
    read_rows(w.values, values + w.k.first * width, width, w.k.count, d);
    multiply_scores(w.scores, w.k, w.keys, w.queries, d);
    for (int i = 0; i < w.k.block_count; ++i) {
      const Block& b = w.k.blocks[i];
      if (b.begin == b.end) continue;
      for (int v = b.vector; v < b.vector + b.columns; ++v) b.masked ? soften<true>(w, b, v) : soften<false>(w, b, v);
      multiply_values<Start::kRescale>(w.sum, b, w.values, w.scores, d, w.rescale);
    }
  }

  for (int i = 0; i < w.q.count; ++i) {
    lse[i] = w.highest[i] * kLn2 + std::log(w.total[i]);
    w.rescale[i] = 1 / w.total[i];
  }
  lanes_to_rows(w.keys, w.sum, w.q.count, d, w.rescale);
  write_rows(out, layout.heads * d, w.keys, kHeadStride, w.q.count, d, 1);
}

template <class T>
void forward(const Tensor& out, const Tensor& lse, const Tensor& qkv, const AttentionArgs& args) {
  const T* in = qkv.data<T>();
  T* to = out.data<T>();
  float* sums = lse.data<float>();
  int64_t sequence = args.sequence, heads = args.layout.heads;
  int64_t units = args.batch * heads, count = units * tiles(sequence);
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < count; ++task) {
    // The late tiles see the most keys: first, so that the threads end together.
    int64_t tile = tiles(sequence) - 1 - task / units, row = task % units / heads, head = task % heads;
    Work& w = *static_cast<Work*>(scratch(ScratchSlot::kAttention, sizeof(Work)));
    set_queries(w.q, args, row, tile);
    forward_tile(w, in + row * sequence * args.layout.width(), sums + (row * heads + head) * sequence + w.q.first,
                 to + ((row * sequence + w.q.first) * heads + head) * args.layout.head_dim, head, args);
  }
}

}  // namespace
}  // namespace attention

void attention_forward(const Tensor& out, const Tensor& lse, const Tensor& qkv, const AttentionArgs& args) {
  if (qkv.dtype() == DType::kBF16) return attention::forward<bf16>(out, lse, qkv, args);
  attention::forward<float>(out, lse, qkv, args);
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

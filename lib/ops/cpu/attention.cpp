// Forward attention: each task takes a few panels (a tile of queries of one head) of one key/value head and walks over
// the tiles of keys that they see, with the online softmax of FlashAttention. Tasks write disjoint outputs and a panel
// does the same whatever its company, so nothing depends on the number of threads.
// A panel may go on from the result over other keys, which is a softmax of its own: highest = lse, total = 1.
// Scores become units of log 2 with the softmax scale, so that exp is exp2.
#include <omp.h>

#include <cfloat>
#include <cmath>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/scratch.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace attention {
namespace {

// Panels of a task: they share each tile of keys and values, whose rows lie too far apart in memory to be read at the
// speed of the arithmetic.
constexpr int kPanels = 4;

struct Panel {
  HeadLanes queries;
  HeadLanes sum;  // of weights times values, not yet divided by total
  float highest[kTile];
  float total[kTile];
  Queries q;
  int64_t head;
};

struct Work {
  alignas(64) HeadTile keys;
  HeadTile values;
  LaneTile scores;
  float rescale[kTile];
  Panel panels[kPanels];
};

// Replaces the scores of one vector of lanes of a block by weights (words across rows, from the row of b.begin on), and
// moves highest, total and rescale on. `scale`: from scores to units of log 2. The total is that before any dropout.
template <class T, bool kMasked, bool kDrops>
void soften(Work& w, Panel& p, const Keys& k, const Block& b, int v, const AttentionArgs& args) {
  VecF scale = all(args.scale * kLog2E);
  float* scores = w.scores + v * kLanes;
  VecF old = load(p.highest + v * kLanes);
  VecF highest = old;
  for (int r = b.begin; r < b.end; ++r) {
    VecF s = load(scores + r * kTile) * scale;
    if constexpr (kMasked) s = sees(p.q, v, k.first + r) ? s : all(-FLT_MAX);
    highest = larger(highest, s);
  }
  VecF rescale = exp2(old - highest);
  VecF total{};
  std::conditional_t<kDrops, Dropout, NoDropout> dropout(args, p.q, v, p.head);
  auto weight = [&](int r) {
    VecF x = exp2(load(scores + r * kTile) * scale - highest);
    if constexpr (kMasked) x = sees(p.q, v, k.first + r) ? x : VecF{};
    total += x;
    if constexpr (kDrops) x *= dropout.factor(k.first + r);
    return x;
  };
  float* to = scores + b.begin * kTile;
  for (int r = b.begin; r < b.end; r += kWord<T>, to += kTile) {
    VecF x = weight(r);
#if defined(__AVX512BF16__)
    if constexpr (kWord<T> == 2) x = words(x, r + 1 < b.end ? weight(r + 1) : VecF{});
#endif
    store(to, x);
  }
  store(p.highest + v * kLanes, highest);
  store(p.total + v * kLanes, load(p.total + v * kLanes) * rescale + total);
  store(w.rescale + v * kLanes, rescale);
}

// Takes key tile `tile`, whose rows from key `base` on lie in w.keys and w.values, into a panel.
template <class T>
void add_tile(Work& w, Panel& p, int64_t tile, int64_t base, const AttentionArgs& args) {
  int64_t head_dim = args.layout.head_dim;
  bool drops = args.dropout.p > 0;
  Keys k;
  set_keys(k, p.q, tile);
  const float* keys = w.keys + (k.first - base) * kHeadStride;
  const float* values = w.values + (k.first - base) / kWord<T> * kHeadStride;
  multiply_scores<T>(w.scores, k, keys, p.queries, head_dim);
  for (int i = 0; i < k.block_count; ++i) {
    const Block& b = k.blocks[i];
    if (b.begin == b.end) continue;
    for (int v = b.vector; v < b.vector + b.columns; ++v) {
      if (drops)
        soften<T, true, true>(w, p, k, b, v, args);
      else if (b.masked)
        soften<T, true, false>(w, p, k, b, v, args);
      else
        soften<T, false, false>(w, p, k, b, v, args);
    }
    multiply_values<T, Start::kRescale>(p.sum, b, values, w.scores, head_dim, w.rescale);
  }
}

// The tensors of one call with one element type.
template <class T>
struct Call {
  const AttentionArgs& args;
  bool merge;
  const T* q;
  const T* k;
  const T* v;
  float* lse;
  Target out;
  int64_t q_stride, kv_stride;

  Call(const Tensor& out, const Tensor& lse, const HeadColumns& in, const AttentionArgs& args, bool merge)
      : args(args),
        merge(merge),
        q(in.q.data<T>()),
        k(in.k.data<T>()),
        v(in.v.data<T>()),
        lse(lse.data<float>()),
        out(out, false),
        q_stride(in.q.row_stride()),
        kv_stride(in.k.row_stride()) {}

  int64_t head_dim() const { return args.layout.head_dim; }
  int64_t query_row(const Panel& p) const { return p.q.row * query_rows(args) + p.q.first; }
  float* lse_of(const Panel& p) const {
    return lse + (p.q.row * args.layout.heads + p.head) * args.sequence + p.q.first;
  }
};

template <class T>
void start_panel(Work& w, Panel& p, const Call<T>& call) {
  int64_t d = call.head_dim();
  read_rows(w.keys, call.q + call.query_row(p) * call.q_stride + p.head * d, call.q_stride, p.q.count, d);
  rows_to_lanes(p.queries, w.keys, p.q.count, word_count<T>(d));
  for (int i = 0; i < kTile; ++i) p.highest[i] = -FLT_MAX, p.total[i] = 0;
  std::memset(p.sum, 0, sizeof(float) * d * kTile);
  if (!call.merge) return;
  const float* before = static_cast<const float*>(call.out.data) + call.query_row(p) * call.out.stride + p.head * d;
  read_rows(w.keys, before, call.out.stride, p.q.count, d);
  rows_to_lanes(p.sum, w.keys, p.q.count, d);
  const float* lse = call.lse_of(p);
  for (int i = 0; i < p.q.count; ++i)
    if (lse[i] != -INFINITY) p.highest[i] = lse[i] * kLog2E, p.total[i] = 1;
}

template <class T>
void finish_panel(Work& w, const Panel& p, const Call<T>& call) {
  int64_t d = call.head_dim();
  float* lse = call.lse_of(p);
  for (int i = 0; i < p.q.count; ++i) {
    lse[i] = p.total[i] == 0 ? -INFINITY : p.highest[i] * kLn2 + std::log(p.total[i]);
    w.rescale[i] = p.total[i] == 0 ? 0 : 1 / p.total[i];
  }
  lanes_to_rows(w.keys, p.sum, p.q.count, d, w.rescale);
  call.out.template put<T>(call.query_row(p), p.head * d, {w.keys, kHeadStride, p.q.count, d});
}

// The first `count` panels of w, which are of key/value head `kv` of one row of the batch and in ascending order.
template <class T>
void forward_panels(Work& w, const Call<T>& call, int64_t kv, int count) {
  int64_t d = call.head_dim(), stride = call.kv_stride;
  const Queries &earliest = w.panels[0].q, &latest = w.panels[count - 1].q;
  for (int i = 0; i < count; ++i) start_panel(w, w.panels[i], call);
  int64_t row = earliest.row * key_rows(call.args);
  const T* keys = call.k + row * stride + kv * d;
  const T* values = call.v + row * stride + kv * d;
  for (int64_t tile = first_key_tile(earliest); tile * kTile < latest.end_key; ++tile) {
    int64_t base = tile * kTile > earliest.first_key ? tile * kTile : earliest.first_key;
    int64_t rows = (tile + 1) * kTile < latest.end_key ? (tile + 1) * kTile - base : latest.end_key - base;
    read_rows(w.keys, keys + base * stride, stride, rows, d);
    read_row_pairs(w.values, values + base * stride, stride, rows, d);
    for (int i = 0; i < count; ++i) {
      Panel& p = w.panels[i];
      if (sees_tile(p.q, tile)) add_tile<T>(w, p, tile, base, call.args);
    }
  }
  for (int i = 0; i < count; ++i) finish_panel(w, w.panels[i], call);
}

template <class T>
void forward(const Call<T>& call) {
  const AttentionArgs& args = call.args;
  const HeadLayout& layout = args.layout;
  int64_t group = layout.heads / layout.kv_heads;
  int64_t units = args.batch * layout.kv_heads, panels = tiles(args.sequence) * group;
  // Large tasks, but several for each thread.
  int64_t share = units * panels / (4 * omp_get_max_threads());
  int64_t size = share < 1 ? 1 : share > kPanels ? kPanels : share, tasks = (panels + size - 1) / size;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < units * tasks; ++task) {
    // Head by head, so that its keys and values stay in cache; the late tiles, which see the most keys, first, so that
    // the threads end together.
    int64_t unit = task / tasks, first = (tasks - 1 - task % tasks) * size;
    int64_t row = unit / layout.kv_heads, kv = unit % layout.kv_heads;
    // Panel i is query tile i / group of head i % group of the group.
    int count = static_cast<int>(panels - first < size ? panels - first : size);
    Work& w = *static_cast<Work*>(scratch(ScratchSlot::kAttention, sizeof(Work)));
    for (int i = 0; i < count; ++i) {
      w.panels[i].head = kv * group + (first + i) % group;
      set_queries(w.panels[i].q, args, row, (first + i) / group);
    }
    forward_panels(w, call, kv, count);
  }
}

}  // namespace
}  // namespace attention

void attention_forward(const Tensor& out, const Tensor& lse, const HeadColumns& in, const AttentionArgs& args,
                       bool merge) {
  if (in.q.dtype() == DType::kBF16) return attention::forward<bf16>({out, lse, in, args, merge});
  attention::forward<float>({out, lse, in, args, merge});
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Backward attention: recomputes the weights of every (query tile, key tile) pair from lse, then
//   dV += P dO,   dS = P * (dO V^T - rowsum(dO * O)),   dK += dS Q,   dQ += dS^T K,
// with dropout (P of dV and dO V^T times the mask's factors; rowsum(dO * O) has them in O).
// Two loop nests give the same bits, because every gradient element is one chain of fused products
// (attention_product.h) over query tiles in ascending order, then heads of the group, then queries (dK, dV), or over
// keys in ascending order (dQ):
//   - whole: one thread takes all tiles of one (batch row, key/value head), with dK and dV of the whole row in scratch;
//   - split: threads take key tiles for dK and dV, then query tiles for dQ, and compute the weights twice (7 products
//     instead of 5).
// Units of work go whole as long as that keeps all threads busy; the rest is split.
#include <omp.h>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/scratch.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace attention {
namespace {

// A tile of queries of one head. "Pairs": words across rows (attention_tile.h); with fp32 words that is no difference.
struct Panel {
  HeadTile query_pairs;
  HeadTile gradient_pairs;  // of the output
  HeadLanes queries;
  HeadLanes gradients;       // of the output
  HeadLanes query_gradient;  // dQ^T / scale
  float lse[kTile];          // in units of log 2
  float delta[kTile];
  Queries q;
  int64_t head;
};

// Panels that share each tile of keys, whose rows lie too far apart in memory to be read at the speed of the
// arithmetic.
constexpr int kPanels = 4;

// As many as stay in a level-2 cache.
int panel_count(int64_t head_dim) {
  return head_dim <= 64 ? kPanels : head_dim <= 128 ? kPanels / 2 : 1;
}

struct Work {
  alignas(64) HeadTile keys;
  HeadTile key_pairs;  // unused with fp32 words
  HeadTile values;
  LaneTile scores;      // S^T, then P^T in words along the row
  LaneTile slopes;      // dP^T, then dS^T in words across rows
  LaneTile slope_rows;  // dS^T in words along the row; unused with fp32 words
  float factor[kTile];
  Keys k;
  Panel panels[kPanels];
};

// The tensors of one call with one element type, and where in them a tile of rows starts.
template <class T>
struct Call {
  const AttentionArgs& args;
  Target dq, dk, dv;
  const T* dout;
  const T* q;
  const T* k;
  const T* v;
  const T* out;
  const float* lse;
  int64_t q_stride, kv_stride, out_stride, dout_stride;

  Call(const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in, const Tensor& out,
       const Tensor& lse, const AttentionArgs& args)
      : args(args),
        dq(gradients.to.q, gradients.accumulate_q),
        dk(gradients.to.k, gradients.accumulate_kv),
        dv(gradients.to.v, gradients.accumulate_kv),
        dout(dout.data<T>()),
        q(in.q.data<T>()),
        k(in.k.data<T>()),
        v(in.v.data<T>()),
        out(out.data<T>()),
        lse(lse.data<float>()),
        q_stride(in.q.row_stride()),
        kv_stride(in.k.row_stride()),
        out_stride(out.row_stride()),
        dout_stride(dout.row_stride()) {}

  const HeadLayout& layout() const { return args.layout; }
  int64_t head_dim() const { return layout().head_dim; }
  int64_t group() const { return layout().heads / layout().kv_heads; }
  int64_t gradient_stride() const { return round_up(head_dim(), kLanes); }  // of dK and dV in scratch
  int64_t query_row(int64_t row, int64_t query) const { return row * query_rows(args) + query; }
  int64_t key_row(int64_t row, int64_t key) const { return row * key_rows(args) + key; }
};

template <class T>
void read_panel(Work& w, Panel& p, const Call<T>& call, int64_t row) {
  int64_t d = call.head_dim(), token = call.query_row(row, p.q.first), words = word_count<T>(d);
  const T* queries = call.q + token * call.q_stride + p.head * d;
  const T* out = call.out + token * call.out_stride + p.head * d;
  const T* dout = call.dout + token * call.dout_stride + p.head * d;
  const float* lse = call.lse + (row * call.layout().heads + p.head) * call.args.sequence + p.q.first;
  for (int i = 0; i < kTile; ++i) {
    bool used = i < p.q.count;
    p.delta[i] = used ? dot(dout + i * call.dout_stride, out + i * call.out_stride, d) : 0;
    p.lse[i] = used ? lse[i] * kLog2E : 0;
  }
  read_row_pairs(p.query_pairs, queries, call.q_stride, p.q.count, d);
  read_row_pairs(p.gradient_pairs, dout, call.dout_stride, p.q.count, d);
  if constexpr (kWord<T> == 1) {
    rows_to_lanes(p.queries, p.query_pairs, p.q.count, words);
    rows_to_lanes(p.gradients, p.gradient_pairs, p.q.count, words);
  } else {
    read_rows(w.keys, queries, call.q_stride, p.q.count, d);
    rows_to_lanes(p.queries, w.keys, p.q.count, words);
    read_rows(w.keys, dout, call.dout_stride, p.q.count, d);
    rows_to_lanes(p.gradients, w.keys, p.q.count, words);
  }
}

// `count` keys from key `first` on.
template <class T>
void read_keys(Work& w, const Call<T>& call, int64_t row, int64_t kv, int64_t first, int64_t count) {
  int64_t d = call.head_dim(), at = call.key_row(row, first) * call.kv_stride + kv * d;
  read_rows(w.keys, call.k + at, call.kv_stride, count, d);
  read_rows(w.values, call.v + at, call.kv_stride, count, d);
  if constexpr (kWord<T> == 2) read_row_pairs(w.key_pairs, call.k + at, call.kv_stride, count, d);
}

// Turns one vector of lanes of a block of scores and slopes into P^T and dS^T.
template <class T, bool kMasked, bool kDrops>
void weigh(Work& w, const Panel& p, const Block& b, int v, const AttentionArgs& args) {
  VecF scale = all(args.scale * kLog2E);
  VecF lse = load(p.lse + v * kLanes), delta = load(p.delta + v * kLanes);
  float* scores = w.scores + v * kLanes;
  float* slopes = w.slopes + v * kLanes;
  std::conditional_t<kDrops, Dropout, NoDropout> dropout(args, p.q, v, p.head);
  VecF kept{};  // of the last weight
  auto weight = [&](int r) {
    VecF x = exp2(load(scores + r * kTile) * scale - lse);
    if constexpr (kMasked) x = sees(p.q, v, w.k.first + r) ? x : VecF{};
    if constexpr (kDrops) kept = dropout.factor(w.k.first + r);
    return x;
  };
  auto slope = [&](int r, VecF x) {
    VecF dp = load(slopes + r * kTile);
    if constexpr (kDrops) dp *= kept;
    return x * (dp - delta);
  };
  auto dropped = [&](VecF x) { return kDrops ? x * kept : x; };
  if constexpr (kWord<T> == 1) {
    for (int r = b.begin; r < b.end; ++r) {
      VecF x = weight(r);
      store(slopes + r * kTile, slope(r, x));
      store(scores + r * kTile, dropped(x));
    }
  }
#if defined(__AVX512BF16__)
  if constexpr (kWord<T> == 2) {
    // In place: vector v of a row of scores becomes words of vector v / 2, which is no longer needed; of slopes, row r
    // becomes words of a row before it.
    constexpr int kHalf = kLanes / 2;
    float* to = slopes + b.begin * kTile;
    for (int r = b.begin; r < b.end; r += 2, to += kTile) {
      VecF x = weight(r), ds = slope(r, x), next = VecF{};
      store_words(w.scores + r * kTile + v * kHalf, dropped(x));
      store_words(w.slope_rows + r * kTile + v * kHalf, ds);
      if (r + 1 < b.end) {
        x = weight(r + 1), next = slope(r + 1, x);
        store_words(w.scores + (r + 1) * kTile + v * kHalf, dropped(x));
        store_words(w.slope_rows + (r + 1) * kTile + v * kHalf, next);
      }
      store(to, words(ds, next));
    }
  }
#endif
}

// P^T and dS^T of the tile pair (p.q, w.k), in its blocks. w.keys and w.values start at key `base`.
template <class T>
void weigh_tile(Work& w, const Panel& p, int64_t base, const AttentionArgs& args) {
  int64_t d = args.layout.head_dim, offset = (w.k.first - base) * kHeadStride;
  multiply_scores<T>(w.scores, w.k, w.keys + offset, p.queries, d);
  multiply_scores<T>(w.slopes, w.k, w.values + offset, p.gradients, d);
  bool drops = args.dropout.p > 0;
  for (int i = 0; i < w.k.block_count; ++i) {
    const Block& b = w.k.blocks[i];
    for (int v = b.vector; v < b.vector + b.columns; ++v) {
      if (drops)
        weigh<T, true, true>(w, p, b, v, args);
      else if (b.masked)
        weigh<T, true, false>(w, p, b, v, args);
      else
        weigh<T, false, false>(w, p, b, v, args);
    }
  }
}

template <class T>
void add_query_gradient(const Work& w, Panel& p, int64_t base, int64_t head_dim) {
  const float* keys = (kWord<T> == 1 ? w.keys : w.key_pairs) + (w.k.first - base) / kWord<T> * kHeadStride;
  for (int i = 0; i < w.k.block_count; ++i)
    multiply_values<T, Start::kKeep>(p.query_gradient, w.k.blocks[i], keys, w.slopes, head_dim, p.delta);
}

// Adds lanes [first, last) of `weights` times the rows of the queries to keys [begin, end) of a gradient.
template <class T>
void add_rows(float* gradient, int64_t stride, const float* weights, const float* rows, int begin, int end, int first,
              int last) {
  int vectors = static_cast<int>(stride / kLanes);
  for (int v = 0; v < vectors;) {
    int columns = next_columns(vectors - v);
    multiply<kWord<T>, kTile, 1, kHeadStride, Start::kKeep>(columns,
                                                            {.rows = end - begin,
                                                             .depth = word_count<T>(last - first),
                                                             .a = weights + begin * kTile + first / kWord<T>,
                                                             .b = rows + first / kWord<T> * kHeadStride + v * kLanes,
                                                             .c = gradient + begin * stride + v * kLanes,
                                                             .c_stride = stride});
    v += columns;
  }
}

// Adds to dK / scale and dV, whose rows of w.k.first are at dk and dv.
template <class T>
void add_key_gradients(const Work& w, const Panel& p, float* dk, float* dv, int64_t stride) {
  const float* slopes = kWord<T> == 1 ? w.slopes : w.slope_rows;
  int step = w.k.masked ? kRows : kTile;
  for (int begin = 0; begin < w.k.count; begin += step) {
    int end = begin + step < w.k.count ? begin + step : w.k.count;
    // The queries whose blocks hold these keys; those before the first of the keys see none of them.
    int first = kTile, last = 0;
    for (int i = 0; i < w.k.block_count; ++i) {
      const Block& b = w.k.blocks[i];
      if (b.end <= begin || b.begin > begin) continue;
      if (first == kTile) first = b.vector * kLanes;
      last = (b.vector + b.columns) * kLanes;
    }
    int64_t diagonal = (w.k.first + begin - p.q.place) / kRows * kRows;
    if (diagonal > first) first = static_cast<int>(diagonal);
    if (last > p.q.count) last = p.q.count;
    if (first >= last) continue;
    add_rows<T>(dv, stride, w.scores, p.gradient_pairs, begin, end, first, last);
    add_rows<T>(dk, stride, slopes, p.query_pairs, begin, end, first, last);
  }
}

template <class T>
void write_query_gradient(Work& w, const Panel& p, const Call<T>& call, int64_t row) {
  int64_t d = call.head_dim();
  for (float& x : w.factor) x = call.args.scale;
  lanes_to_rows(w.keys, p.query_gradient, p.q.count, d, w.factor);
  call.dq.template put<T>(call.query_row(row, p.q.first), p.head * d, {w.keys, kHeadStride, p.q.count, d});
}

template <class T>
void write_key_gradients(const Call<T>& call, const float* dk, const float* dv, int64_t row, int64_t kv, int64_t first,
                         int64_t count) {
  int64_t d = call.head_dim(), stride = call.gradient_stride(), to = call.key_row(row, first);
  call.dk.template put<T>(to, kv * d, {dk, stride, count, d, call.args.scale});
  call.dv.template put<T>(to, kv * d, {dv, stride, count, d});
}

// Scratch for Work, and dK and dV of `keys` keys set to 0.
struct Space {
  Work& w;
  float* dk;
  float* dv;
};

Space space(int64_t keys, int64_t stride) {
  int64_t size = round_up(keys, kTile) * stride;
  char* memory = static_cast<char*>(scratch(ScratchSlot::kAttention, sizeof(Work) + 2 * size * sizeof(float)));
  float* dk = reinterpret_cast<float*>(memory + sizeof(Work));
  std::memset(dk, 0, 2 * size * sizeof(float));
  return {*reinterpret_cast<Work*>(memory), dk, dk + size};
}

// Reads panels [first, last) of key/value head `kv`: panel i is query tile i / group of head i % group of the group.
template <class T>
int read_panels(Work& w, const Call<T>& call, int64_t row, int64_t kv, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    Panel& p = w.panels[i - first];
    p.head = kv * call.group() + i % call.group();
    set_queries(p.q, call.args, row, i / call.group());
    read_panel(w, p, call, row);
  }
  return static_cast<int>(last - first);
}

// dQ of panels [first, last); adds their share to dK / scale and dV of the whole row, unless these are null.
template <class T>
void add_panels(const Space& s, const Call<T>& call, int64_t row, int64_t kv, int64_t first, int64_t last) {
  Work& w = s.w;
  int count = read_panels(w, call, row, kv, first, last);
  int64_t stride = call.gradient_stride(), d = call.head_dim();
  for (int i = 0; i < count; ++i) std::memset(w.panels[i].query_gradient, 0, sizeof(float) * d * kTile);
  const Queries &earliest = w.panels[0].q, &latest = w.panels[count - 1].q;
  int64_t end = latest.end_key;
  for (int64_t tile = first_key_tile(earliest); tile * kTile < end; ++tile) {
    int64_t base = tile * kTile > earliest.first_key ? tile * kTile : earliest.first_key;
    read_keys(w, call, row, kv, base, (tile + 1) * kTile < end ? (tile + 1) * kTile - base : end - base);
    for (int i = 0; i < count; ++i) {
      Panel& p = w.panels[i];
      if (!sees_tile(p.q, tile)) continue;
      set_keys(w.k, p.q, tile);
      weigh_tile<T>(w, p, base, call.args);
      add_query_gradient<T>(w, p, base, d);
      if (s.dk != nullptr) add_key_gradients<T>(w, p, s.dk + w.k.first * stride, s.dv + w.k.first * stride, stride);
    }
  }
  for (int i = 0; i < count; ++i) write_query_gradient(w, w.panels[i], call, row);
}

template <class T>
void whole_unit(const Call<T>& call, int64_t row, int64_t kv) {
  int64_t panels = tiles(call.args.sequence) * call.group(), size = panel_count(call.head_dim());
  int64_t keys = key_count(call.args);
  Space s = space(keys, call.gradient_stride());
  for (int64_t first = 0; first < panels; first += size)
    add_panels(s, call, row, kv, first, first + size < panels ? first + size : panels);
  write_key_gradients(call, s.dk, s.dv, row, kv, 0, keys);
}

// dK and dV of one tile of keys.
template <class T>
void split_key_tile(const Call<T>& call, int64_t row, int64_t kv, int64_t key_tile) {
  int64_t stride = call.gradient_stride(), group = call.group(), first = key_tile * kTile;
  int64_t left = key_count(call.args) - first, count = left < kTile ? left : kTile;
  // The first tile of queries with one at or behind the first of these keys.
  int64_t behind = first - shift(call.args), query_tile = behind > 0 ? behind / kTile : 0;
  Space s = space(kTile, stride);
  Work& w = s.w;
  Panel& p = w.panels[0];
  for (int64_t panel = query_tile * group; panel < tiles(call.args.sequence) * group; ++panel) {
    set_queries(p.q, call.args, row, panel / group);
    if (first_key_tile(p.q) > key_tile) break;  // and so do all later queries
    if (!sees_tile(p.q, key_tile)) continue;
    read_panels(w, call, row, kv, panel, panel + 1);
    set_keys(w.k, p.q, key_tile);
    read_keys(w, call, row, kv, first, count);
    weigh_tile<T>(w, p, first, call.args);
    add_key_gradients<T>(w, p, s.dk + (w.k.first - first) * stride, s.dv + (w.k.first - first) * stride, stride);
  }
  write_key_gradients(call, s.dk, s.dv, row, kv, first, count);
}

template <class T>
void backward(const Call<T>& call) {
  int64_t kv_heads = call.layout().kv_heads, key_tiles = tiles(key_count(call.args));
  int64_t panels = tiles(call.args.sequence) * call.group();
  int64_t units = call.args.batch * kv_heads, threads = omp_get_max_threads();
  // The last round of whole units keeps `rest` threads busy for 5 products; splitting it takes 7 * rest / threads.
  int64_t rest = units % threads;
  int64_t split = 7 * rest < 5 * threads && key_tiles > 1 ? rest : 0, whole = units - split;
  int64_t size = panel_count(call.head_dim()), tasks = (panels + size - 1) / size;
#pragma omp parallel
  {
#pragma omp for schedule(dynamic) nowait
    for (int64_t unit = 0; unit < whole; ++unit) whole_unit(call, unit / kv_heads, unit % kv_heads);
      // The first tiles of keys and the last tiles of queries have the most work: first.
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = 0; task < split * key_tiles; ++task) {
      int64_t unit = whole + task % split;
      split_key_tile(call, unit / kv_heads, unit % kv_heads, task / split);
    }
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = 0; task < split * tasks; ++task) {
      int64_t unit = whole + task % split, first = (tasks - 1 - task / split) * size;
      Work& w = space(0, 0).w;
      add_panels(Space{w, nullptr, nullptr}, call, unit / kv_heads, unit % kv_heads, first,
                 first + size < panels ? first + size : panels);
    }
  }
}

}  // namespace
}  // namespace attention

void attention_backward(const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in,
                        const Tensor& out, const Tensor& lse, const AttentionArgs& args) {
  if (in.q.dtype() == DType::kBF16) return attention::backward<bf16>({gradients, dout, in, out, lse, args});
  attention::backward<float>({gradients, dout, in, out, lse, args});
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Backward attention: recomputes the weights of every (query tile, key tile) pair from lse, then
//   dV += P dO,   dS = P * (dO V^T - rowsum(dO * O)),   dK += dS Q,   dQ += dS^T K.
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

struct Work {
  alignas(64) HeadTile keys;
  HeadTile values;
  HeadTile query_rows;
  HeadTile gradient_rows;  // of the output
  HeadLanes query_lanes;   // times scale * log2(e)
  HeadLanes gradient_lanes;
  HeadLanes query_gradient;  // dQ^T / scale
  LaneTile weights;          // scores, then P^T
  LaneTile slopes;           // dP^T, then dS^T
  float lse[kTile];          // in units of log 2
  float delta[kTile];
  Queries q;
  Keys k;
};

// The arguments of one call with one element type, and where in them a tile of rows starts.
template <class T>
struct Call {
  T* dqkv;
  const T* dout;
  const T* qkv;
  const T* out;
  const float* lse;
  const AttentionArgs& args;

  const HeadLayout& layout() const { return args.layout; }
  int64_t width() const { return layout().width(); }
  int64_t out_width() const { return layout().heads * layout().head_dim; }
  int64_t group() const { return layout().heads / layout().kv_heads; }
  int64_t gradient_stride() const { return round_up(layout().head_dim, kLanes); }  // of dK and dV in scratch
  int64_t key_column(int64_t kv) const { return (layout().heads + kv) * layout().head_dim; }
  int64_t value_column(int64_t kv) const { return (layout().heads + layout().kv_heads + kv) * layout().head_dim; }
  int64_t token(int64_t row, int64_t position) const { return row * args.sequence + position; }
};

template <class T>
void read_queries(Work& w, const Call<T>& call, int64_t row, int64_t head) {
  int64_t d = call.layout().head_dim, token = call.token(row, w.q.first);
  int64_t from = token * call.out_width() + head * d;
  read_rows(w.gradient_rows, call.out + from, call.out_width(), w.q.count, d);
  // w.gradient_rows holds the output until delta is known.
  read_rows(w.query_rows, call.dout + from, call.out_width(), w.q.count, d);
  const float* lse = call.lse + (row * call.layout().heads + head) * call.args.sequence + w.q.first;
  for (int i = 0; i < kTile; ++i) {
    w.delta[i] = i < w.q.count ? dot(w.query_rows + i * kHeadStride, w.gradient_rows + i * kHeadStride, d) : 0;
    w.lse[i] = i < w.q.count ? lse[i] * kLog2E : 0;
  }
  read_rows(w.gradient_rows, call.dout + from, call.out_width(), w.q.count, d);
  read_rows(w.query_rows, call.qkv + token * call.width() + head * d, call.width(), w.q.count, d);
  rows_to_lanes(w.gradient_lanes, w.gradient_rows, w.q.count, d, 1);
  rows_to_lanes(w.query_lanes, w.query_rows, w.q.count, d, call.args.scale * kLog2E);
}

template <class T>
void read_keys(Work& w, const Call<T>& call, int64_t row, int64_t kv) {
  const T* from = call.qkv + call.token(row, w.k.first) * call.width();
  read_rows(w.keys, from + call.key_column(kv), call.width(), w.k.count, call.layout().head_dim);
  read_rows(w.values, from + call.value_column(kv), call.width(), w.k.count, call.layout().head_dim);
}

template <bool kMasked>
void weigh(Work& w, const Block& b, int v) {
  VecF lse = load(w.lse + v * kLanes), delta = load(w.delta + v * kLanes);
  for (int r = b.begin; r < b.end; ++r) {
    float* weight = w.weights + r * kTile + v * kLanes;
    float* slope = w.slopes + r * kTile + v * kLanes;
    VecF p = exp2(load(weight) - lse);
    if constexpr (kMasked) p = sees(w.q, v, w.k.first + r) ? p : VecF{};
    store(weight, p);
    store(slope, p * (load(slope) - delta));
  }
}

// P^T and dS^T of the tile pair (w.q, w.k), in its blocks.
void weigh_tile(Work& w, int64_t head_dim) {
  multiply_scores(w.weights, w.k, w.keys, w.query_lanes, head_dim);
  multiply_scores(w.slopes, w.k, w.values, w.gradient_lanes, head_dim);
  for (int i = 0; i < w.k.block_count; ++i) {
    const Block& b = w.k.blocks[i];
    for (int v = b.vector; v < b.vector + b.columns; ++v) b.masked ? weigh<true>(w, b, v) : weigh<false>(w, b, v);
  }
}

void add_query_gradient(Work& w, int64_t head_dim) {
  for (int i = 0; i < w.k.block_count; ++i)
    multiply_values<Start::kKeep>(w.query_gradient, w.k.blocks[i], w.keys, w.slopes, head_dim, w.delta);
}

// Adds lanes [first, last) of `weights` times the rows of the queries to keys [begin, end) of a gradient.
void add_rows(float* gradient, int64_t stride, const float* weights, const float* rows, int begin, int end, int first,
              int last) {
  int vectors = static_cast<int>(stride / kLanes);
  for (int v = 0; v < vectors;) {
    int columns = next_columns(vectors - v);
    multiply<kTile, 1, kHeadStride, Start::kKeep>(columns, {.rows = end - begin,
                                                            .depth = last - first,
                                                            .a = weights + begin * kTile + first,
                                                            .b = rows + first * kHeadStride + v * kLanes,
                                                            .c = gradient + begin * stride + v * kLanes,
                                                            .c_stride = stride});
    v += columns;
  }
}

// Adds to dK / scale and dV of the keys of w.k, whose first rows are at dk and dv.
void add_key_gradients(Work& w, float* dk, float* dv, int64_t stride) {
  int step = w.k.masked ? kRows : kTile;
  for (int begin = 0; begin < w.k.count; begin += step) {
    int end = begin + step < w.k.count ? begin + step : w.k.count;
    // The queries whose blocks hold these keys; below the diagonal a query sees none of them.
    int first = kTile, last = 0;
    for (int i = 0; i < w.k.block_count; ++i) {
      const Block& b = w.k.blocks[i];
      if (b.end <= begin || b.begin > begin) continue;
      if (first == kTile) first = b.vector * kLanes;
      last = (b.vector + b.columns) * kLanes;
    }
    int64_t diagonal = w.k.first + begin - w.q.first;
    if (diagonal > first) first = static_cast<int>(diagonal);
    if (last > w.q.count) last = w.q.count;
    if (first >= last) continue;
    add_rows(dv, stride, w.weights, w.gradient_rows, begin, end, first, last);
    add_rows(dk, stride, w.slopes, w.query_rows, begin, end, first, last);
  }
}

template <class T>
void write_query_gradient(Work& w, const Call<T>& call, int64_t row, int64_t head) {
  int64_t d = call.layout().head_dim;
  for (float& x : w.delta) x = call.args.scale;
  lanes_to_rows(w.keys, w.query_gradient, w.q.count, d, w.delta);
  write_rows(call.dqkv + call.token(row, w.q.first) * call.width() + head * d, call.width(), w.keys, kHeadStride,
             w.q.count, d, 1);
}

template <class T>
void write_key_gradients(const Call<T>& call, const float* dk, const float* dv, int64_t row, int64_t kv, int64_t first,
                         int64_t count) {
  T* to = call.dqkv + call.token(row, first) * call.width();
  int64_t d = call.layout().head_dim, stride = call.gradient_stride();
  write_rows(to + call.key_column(kv), call.width(), dk, stride, count, d, call.args.scale);
  write_rows(to + call.value_column(kv), call.width(), dv, stride, count, d, 1);
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

template <class T>
void whole_unit(const Call<T>& call, int64_t row, int64_t kv) {
  int64_t stride = call.gradient_stride(), d = call.layout().head_dim, group = call.group();
  Space s = space(call.args.sequence, stride);
  Work& w = s.w;
  for (int64_t tile = 0; tile < tiles(call.args.sequence); ++tile) {
    set_queries(w.q, call.args, row, tile);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      read_queries(w, call, row, head);
      std::memset(w.query_gradient, 0, sizeof(float) * d * kTile);
      for (int64_t key_tile = first_key_tile(w.q); key_tile <= tile; ++key_tile) {
        set_keys(w.k, w.q, key_tile);
        read_keys(w, call, row, kv);
        weigh_tile(w, d);
        add_query_gradient(w, d);
        add_key_gradients(w, s.dk + w.k.first * stride, s.dv + w.k.first * stride, stride);
      }
      write_query_gradient(w, call, row, head);
    }
  }
  write_key_gradients(call, s.dk, s.dv, row, kv, 0, call.args.sequence);
}

template <class T>
void split_key_tile(const Call<T>& call, int64_t row, int64_t kv, int64_t key_tile) {
  int64_t stride = call.gradient_stride(), group = call.group(), first = key_tile * kTile;
  Space s = space(kTile, stride);
  Work& w = s.w;
  for (int64_t tile = key_tile; tile < tiles(call.args.sequence); ++tile) {
    set_queries(w.q, call.args, row, tile);
    if (first_key_tile(w.q) > key_tile) break;  // and so do all later queries
    set_keys(w.k, w.q, key_tile);
    read_keys(w, call, row, kv);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      read_queries(w, call, row, head);
      weigh_tile(w, call.layout().head_dim);
      add_key_gradients(w, s.dk + (w.k.first - first) * stride, s.dv + (w.k.first - first) * stride, stride);
    }
  }
  int64_t left = call.args.sequence - first;
  write_key_gradients(call, s.dk, s.dv, row, kv, first, left < kTile ? left : kTile);
}

template <class T>
void split_query_tile(const Call<T>& call, int64_t row, int64_t head, int64_t tile) {
  int64_t d = call.layout().head_dim;
  Work& w = space(0, 0).w;
  set_queries(w.q, call.args, row, tile);
  read_queries(w, call, row, head);
  std::memset(w.query_gradient, 0, sizeof(float) * d * kTile);
  for (int64_t key_tile = first_key_tile(w.q); key_tile <= tile; ++key_tile) {
    set_keys(w.k, w.q, key_tile);
    read_keys(w, call, row, head / call.group());
    weigh_tile(w, d);
    add_query_gradient(w, d);
  }
  write_query_gradient(w, call, row, head);
}

template <class T>
void backward(const Call<T>& call) {
  int64_t kv_heads = call.layout().kv_heads, group = call.group(), count = tiles(call.args.sequence);
  int64_t units = call.args.batch * kv_heads, threads = omp_get_max_threads();
  // The last round of whole units keeps `rest` threads busy for 5 products; splitting it takes 7 * rest / threads.
  int64_t rest = units % threads;
  int64_t whole = 7 * rest < 5 * threads && count > 1 ? units - rest : units;
#pragma omp parallel
  {
#pragma omp for schedule(dynamic) nowait
    for (int64_t unit = 0; unit < whole; ++unit) whole_unit(call, unit / kv_heads, unit % kv_heads);
      // The first key tiles and the last query tiles have the most work: first.
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = 0; task < (units - whole) * count; ++task) {
      int64_t unit = whole + task % (units - whole);
      split_key_tile(call, unit / kv_heads, unit % kv_heads, task / (units - whole));
    }
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = 0; task < (units - whole) * group * count; ++task) {
      int64_t head = whole * group + task % ((units - whole) * group);
      split_query_tile(call, head / (kv_heads * group), head % (kv_heads * group),
                       count - 1 - task / ((units - whole) * group));
    }
  }
}

template <class T>
void backward(const Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
              const AttentionArgs& args) {
  if (qkv.rows() == 0) return;
  backward(Call<T>{dqkv.data<T>(), dout.data<T>(), qkv.data<T>(), out.data<T>(), lse.data<float>(), args});
}

}  // namespace
}  // namespace attention

void attention_backward(const Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const AttentionArgs& args) {
  if (qkv.dtype() == DType::kBF16) return attention::backward<bf16>(dqkv, dout, qkv, out, lse, args);
  attention::backward<float>(dqkv, dout, qkv, out, lse, args);
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

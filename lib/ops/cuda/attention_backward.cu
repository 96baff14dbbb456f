// Backward attention in bf16 on tensor cores. The weights are computed again from lse, then
//   dV += P dO,   dS = P (dO V^T - delta),   dK += dS Q,   dQ += dS K,   delta = rowsum(dO O),
// with dropout (P of dV and dO V^T times the mask's factors; delta has them in O).
// One kernel keeps a tile of keys and walks over heads and queries (dK, dV), another keeps a tile of queries and walks
// over keys (dQ): two products more than one kernel for all would need, but every sum has one owner and one order.
#include "ops/cuda/attention.h"
#include "ops/cuda/attention_f32.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace attention {
namespace {

constexpr int kOwn = 64;  // rows that a block keeps: 16 for each of four warps

struct Backward {
  Problem problem;
  Rows<bf16> q, k, v, dout;
  Target dq, dk, dv;
  const float* lse;
  const float* delta;
};

template <class T, int N>
__global__ void __launch_bounds__(128) delta_kernel(float* delta, Rows<T> out, Rows<T> dout, Problem p) {
  int64_t units = int64_t{p.batch} * p.sequence * p.heads, warps = gridDim.x * int64_t{blockDim.x} / kWarpSize;
  for (int64_t unit = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / kWarpSize; unit < units; unit += warps) {
    auto head = static_cast<int>(unit % p.heads), i = static_cast<int>(unit / p.heads % p.sequence);
    auto row = static_cast<int>(unit / p.heads / p.sequence);
    const T* a = head_of(out, p.query_row(row, i), head * p.head_dim).data;
    const T* b = head_of(dout, p.query_row(row, i), head * p.head_dim).data;
    float sum = 0;
    for (int c = lane_index() * N; c < p.head_dim; c += kWarpSize * N) {
      float x[N], y[N];
      load(a + c, x);
      load(b + c, y);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += x[j] * y[j];
    }
    sum = warp_reduce(sum);
    if (lane_index() == 0) delta[p.lse_at(row, head, i)] = sum;
  }
}

// What a tile of queries needs beside its rows.
template <int kQueries>
struct Facts {
  float lse[kQueries];  // in units of log 2; infinity where a query sees nothing, so that its weights are 0
  float delta[kQueries];
  int from[kQueries];
};

template <int kQueries>
AM_DEVICE void read_facts(Facts<kQueries>& facts, const Backward& b, int row, int head, int first) {
  const Problem& p = b.problem;
  for (int t = threadIdx.x; t < kQueries; t += blockDim.x) {
    int i = first + t;
    float lse = i < p.sequence ? b.lse[p.lse_at(row, head, i)] : -kInfinity;
    facts.lse[t] = lse == -kInfinity ? kInfinity : lse * kLog2E;
    facts.delta[t] = i < p.sequence ? b.delta[p.lse_at(row, head, i)] : 0;
    facts.from[t] = i < p.sequence ? p.see_from(row, i) : 0;
  }
}

template <int kN>
AM_DEVICE void set_zero(float (&x)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int c = 0; c < 4; ++c) x[n][c] = 0;
}

// A gradient's rows of this lane: row `own` + lane / 4 and 8 more, of `count`; columns from 8 * column on.
template <int kN>
AM_DEVICE void put_rows(const Target& to, const float (&x)[kN][4], int64_t first_row, int own, int count, int column,
                        int head_column, int head_dim, float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int r = own + half * 8 + lane_index() / 4;
    if (r >= count) continue;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      int at = (column + n) * 8 + lane_index() % 4 * 2;
      if (at < head_dim)
        to.put_pair(first_row + r, head_column + at, x[n][2 * half] * factor, x[n][2 * half + 1] * factor,
                    at + 1 < head_dim);
    }
  }
}

// Turns scores and slopes of 16 keys (rows) and kQueries queries (columns) into the weights of dV and dS / scale.
template <int kQueries, bool kDrops>
AM_DEVICE void weigh_by_keys(float (&scores)[kQueries / 8][4], float (&slopes)[kQueries / 8][4],
                             const Facts<kQueries>& facts, const Problem& p, int row, int head, int first, int key,
                             bool masked) {
  float scale = p.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      int t = n * 8 + lane_index() % 4 * 2 + c % 2, j = key + c / 2 * 8;
      bool seen = !masked || (j >= facts.from[t] && j <= p.see_to(first + t));
      float weight = seen ? exp2_fast(scores[n][c] * scale - facts.lse[t]) : 0, kept = 1;
      if constexpr (kDrops) kept = Drops(p, row, head).factor(first + t, j);
      scores[n][c] = weight * kept;
      slopes[n][c] = weight * (slopes[n][c] * kept - facts.delta[t]);
    }
}

// dK and dV of a tile of keys of one key/value head. Warps w and w + 4 have the same 16 keys and halves of the columns.
template <int kD, int kQueries, int kSplit, bool kDrops>
__global__ void __launch_bounds__(128 * kSplit) keys_kernel(Backward b) {
  constexpr int kColumns = kD / 8 / kSplit;
  const Problem& p = b.problem;
  bf16* k = shared_memory<bf16>();
  bf16* v = k + kOwn * kD;
  bf16* q = v + kOwn * kD;  // two tiles
  bf16* dout = q + 2 * kQueries * kD;
  auto* facts = reinterpret_cast<Facts<kQueries>*>(dout + 2 * kQueries * kD);
  int first_key = blockIdx.x * kOwn, kv = blockIdx.y, row = blockIdx.z;
  int count = min(kOwn, p.keys - first_key), last_key = first_key + count - 1;
  int own = warp_index() % 4 * 16, column = warp_index() / 4 * kColumns;

  // The tiles of queries between the first that stands at one of the keys and the last that sees one.
  int first_tile = max(first_key - p.shift, 0) / kQueries, end_tile = first_tile;
  while (end_tile * kQueries < p.sequence && p.see_from(row, end_tile * kQueries) <= last_key) ++end_tile;
  int tiles = end_tile - first_tile, steps = tiles * p.group;
  auto fetch = [&](int step) {
    int head = kv * p.group + step / tiles, first = (first_tile + step % tiles) * kQueries;
    int rows = p.sequence - first, buffer = step % 2 * kQueries * kD;
    load_tile<kD, kQueries>(q + buffer, head_of(b.q, p.query_row(row, first), head * p.head_dim), rows, p.head_dim);
    load_tile<kD, kQueries>(dout + buffer, head_of(b.dout, p.query_row(row, first), head * p.head_dim), rows,
                            p.head_dim);
    read_facts(facts[step % 2], b, row, head, first);
  };
  load_tile<kD, kOwn>(k, head_of(b.k, p.key_row(row, first_key), kv * p.head_dim), count, p.head_dim);
  load_tile<kD, kOwn>(v, head_of(b.v, p.key_row(row, first_key), kv * p.head_dim), count, p.head_dim);
  if (steps > 0) fetch(0);
  copy_async_commit();
  float dk[kColumns][4], dv[kColumns][4];
  set_zero(dk);
  set_zero(dv);
  copy_async_wait<0>();
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody needs the one before any more
    if (step + 1 < steps) fetch(step + 1);
    copy_async_commit();
    int head = kv * p.group + step / tiles, first = (first_tile + step % tiles) * kQueries;
    int last = min(first + kQueries, p.sequence) - 1, buffer = step % 2 * kQueries * kD;
    bool masked = last_key > p.see_to(first) || first_key < p.see_from(row, last);
    float scores[kQueries / 8][4], slopes[kQueries / 8][4];
    set_zero(scores);
    set_zero(slopes);
    multiply_rows<kD, kQueries / 8>(scores, k, own, q + buffer, p.head_dim);
    multiply_rows<kD, kQueries / 8>(slopes, v, own, dout + buffer, p.head_dim);
    weigh_by_keys<kQueries, kDrops>(scores, slopes, facts[step % 2], p, row, head, first,
                                    first_key + own + lane_index() / 4, masked);
    add_rows<kD, kColumns, kQueries / 16>(dv, scores, dout + buffer, column);
    add_rows<kD, kColumns, kQueries / 16>(dk, slopes, q + buffer, column);
  }
  int64_t to = p.key_row(row, first_key);
  put_rows(b.dk, dk, to, own, count, column, kv * p.head_dim, p.head_dim, p.scale);
  put_rows(b.dv, dv, to, own, count, column, kv * p.head_dim, p.head_dim, 1);
}

// What a lane needs of its two queries.
struct Query {
  int i, from, to;
  float lse, delta;
};

AM_DEVICE Query query_at(const Backward& b, int row, int head, int i) {
  const Problem& p = b.problem;
  if (i >= p.sequence) return {i, 1, 0, kInfinity, 0};
  float lse = b.lse[p.lse_at(row, head, i)];
  return {i, p.see_from(row, i), p.see_to(i), lse == -kInfinity ? kInfinity : lse * kLog2E,
          b.delta[p.lse_at(row, head, i)]};
}

// Slopes of 16 queries (rows) and kKeys keys (columns) become dS / scale.
template <int kKeys, bool kDrops>
AM_DEVICE void weigh_by_queries(const float (&scores)[kKeys / 8][4], float (&slopes)[kKeys / 8][4],
                                const Query (&queries)[2], const Problem& p, int row, int head, int key, bool masked) {
  float scale = p.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Query& query = queries[half];
      int j = key + n * 8 + lane_index() % 4 * 2;
      float kept[2] = {1, 1};
      if constexpr (kDrops) Drops(p, row, head).factors(query.i, j, kept[0], kept[1]);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        bool seen = !masked || (j + c >= query.from && j + c <= query.to);
        float weight = seen ? exp2_fast(scores[n][2 * half + c] * scale - query.lse) : 0;
        slopes[n][2 * half + c] = weight * (slopes[n][2 * half + c] * kept[c] - query.delta);
      }
    }
}

// dQ of a tile of queries of one head.
template <int kD, int kKeys, bool kDrops>
__global__ void __launch_bounds__(128) queries_kernel(Backward b) {
  const Problem& p = b.problem;
  bf16* q = shared_memory<bf16>();
  bf16* dout = q + kOwn * kD;
  bf16* k = dout + kOwn * kD;  // two tiles
  bf16* v = k + 2 * kKeys * kD;
  // The late tiles, which see the most keys, first.
  int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kOwn, head = blockIdx.y, row = blockIdx.z;
  int count = min(kOwn, p.sequence - first), own = warp_index() * 16;
  int begin = p.see_from(row, first), end = p.see_to(first + count - 1) + 1;
  int tile = begin / kKeys, last_tile = end > begin ? (end - 1) / kKeys : tile - 1;
  Rows<bf16> keys = head_of(b.k, p.key_row(row, 0), head / p.group * p.head_dim);
  Rows<bf16> values = head_of(b.v, p.key_row(row, 0), head / p.group * p.head_dim);
  auto fetch = [&](int t) {
    int buffer = t % 2 * kKeys * kD;
    load_tile<kD, kKeys>(k + buffer, head_of(keys, t * kKeys, 0), p.keys - t * kKeys, p.head_dim);
    load_tile<kD, kKeys>(v + buffer, head_of(values, t * kKeys, 0), p.keys - t * kKeys, p.head_dim);
  };
  load_tile<kD, kOwn>(q, head_of(b.q, p.query_row(row, first), head * p.head_dim), count, p.head_dim);
  load_tile<kD, kOwn>(dout, head_of(b.dout, p.query_row(row, first), head * p.head_dim), count, p.head_dim);
  if (tile <= last_tile) fetch(tile);
  copy_async_commit();
  Query queries[2] = {query_at(b, row, head, first + own + lane_index() / 4),
                      query_at(b, row, head, first + own + 8 + lane_index() / 4)};
  int all_from = p.see_from(row, first + count - 1), all_to = p.see_to(first);
  float dq[kD / 8][4];
  set_zero(dq);
  copy_async_wait<0>();
  for (; tile <= last_tile; ++tile) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody needs the one before any more
    if (tile < last_tile) fetch(tile + 1);
    copy_async_commit();
    int key = tile * kKeys, buffer = tile % 2 * kKeys * kD;
    float scores[kKeys / 8][4], slopes[kKeys / 8][4];
    set_zero(scores);
    set_zero(slopes);
    multiply_rows<kD, kKeys / 8>(scores, q, own, k + buffer, p.head_dim);
    multiply_rows<kD, kKeys / 8>(slopes, dout, own, v + buffer, p.head_dim);
    weigh_by_queries<kKeys, kDrops>(scores, slopes, queries, p, row, head, key,
                                    key < all_from || key + kKeys - 1 > all_to);
    add_rows<kD, kD / 8, kKeys / 16>(dq, slopes, k + buffer, 0);
  }
  put_rows(b.dq, dq, p.query_row(row, first), own, count, 0, head * p.head_dim, p.head_dim, p.scale);
}

template <int kD, bool kDrops>
void run(const Backward& b) {
  constexpr int kOther = kD > 128 ? 32 : 64, kSplit = kD > 128 ? 2 : 1;
  const Problem& p = b.problem;
  size_t tiles = (2 * kOwn + 4 * kOther) * kD * sizeof(bf16);
  if (p.keys > 0)
    launch(keys_kernel<kD, kOther, kSplit, kDrops>,
           {dim3(extent(divide_up(p.keys, kOwn)), extent(p.kv_heads), extent(p.batch)), dim3(128 * kSplit),
            tiles + 2 * sizeof(Facts<kOther>)},
           b);
  launch(queries_kernel<kD, kOther, kDrops>,
         {dim3(extent(divide_up(p.sequence, kOwn)), extent(p.heads), extent(p.batch)), dim3(128), tiles}, b);
}

}  // namespace
}  // namespace attention

void attention_backward(const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in,
                        const Tensor& out, const Tensor& lse, const AttentionArgs& args) {
  using namespace attention;
  Problem p = problem_of(args);
  int64_t d = p.head_dim, units = args.batch * args.sequence * p.heads;
  if (units == 0) return;
  auto* delta = static_cast<float*>(scratch(static_cast<size_t>(units) * sizeof(float)));
  with_type(in.q, [&](auto tag) {
    using T = decltype(tag);
    with_warp_width<T>(d, {{out.raw(), out.row_stride()}, {dout.raw(), dout.row_stride()}, {nullptr, d}},
                       [&]<int N>(Lanes<N>) {
                         launch(delta_kernel<T, N>, blocks_for(divide_up(units, 4), 128), delta, rows_of<T>(out, d),
                                rows_of<T>(dout, d), p);
                       });
  });
  if (in.q.dtype() == DType::kF32) return backward_f32(gradients, dout, in, ptr<float>(lse), delta, p);
  Backward b{p,
             rows_of<bf16>(in.q, d),
             rows_of<bf16>(in.k, d),
             rows_of<bf16>(in.v, d),
             rows_of<bf16>(dout, d),
             target_of(gradients.to.q, d, gradients.accumulate_q),
             target_of(gradients.to.k, d, gradients.accumulate_kv),
             target_of(gradients.to.v, d, gradients.accumulate_kv),
             ptr<float>(lse),
             delta};
  with_width(d, [&](auto width) {
    if (p.drops)
      run<decltype(width)::value, true>(b);
    else
      run<decltype(width)::value, false>(b);
  });
}

}  // namespace automodel::ops::cuda

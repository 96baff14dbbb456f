// Forward attention in bf16 on tensor cores: four warps take a tile of queries of one head, each kM times 16 of them,
// and walk over the tiles of keys that these see, with the online softmax of FlashAttention; while they work on one
// tile of keys and values the next is on its way. Scores are in units of log 2, so that exp is exp2. A block may go on
// from the result over other keys, which is a softmax of its own: highest = lse, total = 1.
#include "ops/cuda/attention.h"
#include "ops/cuda/attention_f32.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace attention {
namespace {

constexpr int kThreads = 128;

struct Forward {
  Problem problem;
  Rows<bf16> q, k, v;
  Target out;
  float* lse;
  bool merge;
};

// What a lane has of 16 kM queries: of each part of 16, two rows.
template <int kD, int kM>
struct State {
  float highest[kM][2];
  float total[kM][2];  // of this lane's weights alone, before any dropout
  float sum[kM][kD / 8][4];
  int from[kM][2], to[kM][2];  // the keys that the query sees
};

// The query of the block that half `half` of part `m` of this lane is about.
template <int kM>
AM_DEVICE int query_of(int m, int half) {
  return (warp_index() * kM + m) * 16 + half * 8 + lane_index() / 4;
}

template <int kD, int kM>
AM_DEVICE void start(State<kD, kM>& s, const Forward& f, int row, int head, int first) {
  const Problem& p = f.problem;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int i = first + query_of<kM>(m, half);
      bool used = i < p.sequence;
      s.from[m][half] = used ? p.see_from(row, i) : 1;
      s.to[m][half] = used ? p.see_to(i) : 0;
      s.highest[m][half] = -kInfinity;
      s.total[m][half] = 0;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) s.sum[m][n][2 * half] = s.sum[m][n][2 * half + 1] = 0;
      if (!f.merge || !used) continue;
      float lse = f.lse[p.lse_at(row, head, i)];
      if (lse == -kInfinity) continue;
      s.highest[m][half] = lse * kLog2E;
      s.total[m][half] = lane_index() % 4 == 0 ? 1 : 0;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          int column = n * 8 + lane_index() % 4 * 2 + c;
          if (column < p.head_dim)
            s.sum[m][n][2 * half + c] = f.out.get_f32(p.query_row(row, i), head * p.head_dim + column);
        }
    }
}

// Scores become weights; highest, total and sum move on. `masked`: some query does not see some key of the tile.
template <int kD, int kM, int kKeys>
AM_DEVICE void soften(State<kD, kM>& s, float (&scores)[kM][kKeys / 8][4], const Problem& p, int key, bool masked) {
  float scale = p.scale * kLog2E;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = s.highest[m][half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = scores[m][n][2 * half + c];
          x *= scale;
          if (masked) {
            int j = key + n * 8 + lane_index() % 4 * 2 + c;
            if (j < s.from[m][half] || j > s.to[m][half]) x = -kInfinity;
          }
          highest = x > highest ? x : highest;
        }
      highest = warp_reduce<4>(highest, Larger{});
      float base = highest == -kInfinity ? 0 : highest, rescale = exp2_fast(s.highest[m][half] - base), total = 0;
      s.highest[m][half] = highest;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = scores[m][n][2 * half + c];
          x = exp2_fast(x - base);
          total += x;
        }
      s.total[m][half] = s.total[m][half] * rescale + total;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        s.sum[m][n][2 * half] *= rescale;
        s.sum[m][n][2 * half + 1] *= rescale;
      }
    }
}

template <int kM, int kKeys>
AM_DEVICE void drop(float (&weights)[kM][kKeys / 8][4], const Drops& drops, int first, int key) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        float a, b;
        drops.factors(first + query_of<kM>(m, half), key + n * 8 + lane_index() % 4 * 2, a, b);
        weights[m][n][2 * half] *= a;
        weights[m][n][2 * half + 1] *= b;
      }
}

template <int kD, int kM>
AM_DEVICE void finish(const State<kD, kM>& s, const Forward& f, int row, int head, int first) {
  const Problem& p = f.problem;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = warp_reduce<4>(s.total[m][half]);
      int i = first + query_of<kM>(m, half);
      if (i >= p.sequence) continue;
      float factor = total == 0 ? 0 : 1 / total;
      if (lane_index() % 4 == 0)
        f.lse[p.lse_at(row, head, i)] = total == 0 ? -kInfinity : (s.highest[m][half] + log2f(total)) * kLn2;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        int column = n * 8 + lane_index() % 4 * 2;
        if (column < p.head_dim)
          f.out.put_pair(p.query_row(row, i), head * p.head_dim + column, s.sum[m][n][2 * half] * factor,
                         s.sum[m][n][2 * half + 1] * factor, column + 1 < p.head_dim);
      }
    }
}

// Scores of kM parts of 16 queries; a second factor serves all of them.
template <int kD, int kM, int kKeys>
AM_DEVICE void score(float (&scores)[kM][kKeys / 8][4], const bf16* q, const bf16* k, int head_dim) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) scores[m][n][c] = 0;
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    if (step * 16 >= head_dim) break;
    uint32_t x[kM][4], y[4];
#pragma unroll
    for (int m = 0; m < kM; ++m) first_factor<kD>(x[m], q, (warp_index() * kM + m) * 16, step);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      second_factor<kD>(y, k, n * 8, step);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_tile(scores[m][n], x[m], y[0], y[1]);
        multiply_tile(scores[m][n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

template <int kD, int kM, int kKeys>
AM_DEVICE void add_values(State<kD, kM>& s, const float (&weights)[kM][kKeys / 8][4], const bf16* v, int head_dim) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    uint32_t x[kM][4], y[4];
#pragma unroll
    for (int m = 0; m < kM; ++m) sums_as_factor(x[m], weights[m][2 * step], weights[m][2 * step + 1]);
#pragma unroll
    for (int n = 0; n < kD / 8; n += 2) {
      if (n * 8 >= head_dim) break;
      second_factor_rows<kD>(y, v, step * 16, n / 2);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_tile(s.sum[m][n], x[m], y[0], y[1]);
        multiply_tile(s.sum[m][n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

template <int kD, int kM, int kKeys, bool kDrops>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward f) {
  constexpr int kQueries = 64 * kM;
  const Problem& p = f.problem;
  bf16* q = shared_memory<bf16>();
  bf16* k = q + kQueries * kD;  // two tiles
  bf16* v = k + 2 * kKeys * kD;
  // The late tiles, which see the most keys, first.
  int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kQueries, head = blockIdx.y, row = blockIdx.z;
  int count = min(kQueries, p.sequence - first);
  int begin = p.see_from(row, first), end = p.see_to(first + count - 1) + 1;
  int tile = begin / kKeys, last_tile = end > begin ? (end - 1) / kKeys : tile - 1;
  Rows<bf16> keys = head_of(f.k, p.key_row(row, 0), head / p.group * p.head_dim);
  Rows<bf16> values = head_of(f.v, p.key_row(row, 0), head / p.group * p.head_dim);
  auto fetch = [&](int t) {
    int buffer = t % 2 * kKeys * kD;
    load_tile<kD, kKeys>(k + buffer, head_of(keys, t * kKeys, 0), p.keys - t * kKeys, p.head_dim);
    load_tile<kD, kKeys>(v + buffer, head_of(values, t * kKeys, 0), p.keys - t * kKeys, p.head_dim);
  };
  load_tile<kD, kQueries>(q, head_of(f.q, p.query_row(row, first), head * p.head_dim), count, p.head_dim);
  if (tile <= last_tile) fetch(tile);
  copy_async_commit();
  State<kD, kM> s;
  start(s, f, row, head, first);
  // Every query of the block sees the keys [all_from, all_to].
  int all_from = p.see_from(row, first + count - 1), all_to = p.see_to(first);
  copy_async_wait<0>();
  for (; tile <= last_tile; ++tile) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody needs the one before any more
    if (tile < last_tile) fetch(tile + 1);
    copy_async_commit();
    float scores[kM][kKeys / 8][4];
    int key = tile * kKeys, buffer = tile % 2 * kKeys * kD;
    score<kD, kM, kKeys>(scores, q, k + buffer, p.head_dim);
    soften<kD, kM, kKeys>(s, scores, p, key, key < all_from || key + kKeys - 1 > all_to);
    if constexpr (kDrops) drop<kM, kKeys>(scores, Drops(p, row, head), first, key);
    add_values<kD, kM, kKeys>(s, scores, v + buffer, p.head_dim);
  }
  finish(s, f, row, head, first);
}

template <int kD>
void run(const Forward& f) {
  constexpr int kM = kD > 128 ? 1 : 2, kQueries = 64 * kM, kKeys = kD > 128 ? 32 : 64;
  const Problem& p = f.problem;
  Grid grid{dim3(extent(divide_up(p.sequence, kQueries)), extent(p.heads), extent(p.batch)), dim3(kThreads),
            (kQueries + 4 * kKeys) * kD * sizeof(bf16)};
  if (p.drops)
    launch(forward_kernel<kD, kM, kKeys, true>, grid, f);
  else
    launch(forward_kernel<kD, kM, kKeys, false>, grid, f);
}

}  // namespace
}  // namespace attention

void attention_forward(const Tensor& out, const Tensor& lse, const HeadColumns& in, const AttentionArgs& args,
                       bool merge) {
  using namespace attention;
  Problem problem = problem_of(args);
  if (problem.batch == 0 || problem.sequence == 0) return;
  Target target = target_of(out, problem.head_dim);
  if (in.q.dtype() == DType::kF32) return forward_f32(target, ptr<float>(lse), in, problem, merge);
  int64_t d = problem.head_dim;
  Forward f{problem, rows_of<bf16>(in.q, d), rows_of<bf16>(in.k, d), rows_of<bf16>(in.v, d), target, ptr<float>(lse),
            merge};
  with_width(d, [&](auto width) { run<decltype(width)::value>(f); });
}

}  // namespace automodel::ops::cuda

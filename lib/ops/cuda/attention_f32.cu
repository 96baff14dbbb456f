// Attention in fp32, without tensor cores. A block keeps kTile rows (queries; or keys, for their gradients), eight
// threads to a row, and walks over tiles of the other side: a thread has kTile / 8 scores of its row and every eighth
// column of the row's sums. Weights change hands in shared memory.
#include "ops/cuda/attention_f32.h"

namespace automodel::ops::cuda::attention {
namespace {

constexpr int kTeam = 8;  // threads of a row

template <int kD>
inline constexpr int kTile = kD > 128 ? 16 : 32;
template <int kD>
inline constexpr int kStride = kD + 1;  // of a row in shared memory
template <int kD>
inline constexpr int kThreads = kTile<kD>* kTeam;

// A tile of rows in shared memory; rows from `count` on and columns from head_dim on are 0.
template <int kD>
AM_DEVICE void read_tile(float* tile, const Rows<float>& from, int count, int head_dim) {
  for (int i = threadIdx.x; i < kTile<kD> * kD; i += blockDim.x) {
    int row = i / kD, column = i % kD;
    tile[row * kStride<kD> + column] = row < count && column < head_dim ? from.data[row * from.stride + column] : 0;
  }
}

// The inner products of the thread's own row with its rows of another tile.
template <int kD>
AM_DEVICE void multiply_rows(float (&products)[kTile<kD> / kTeam], const float* own, const float* other, int head_dim) {
#pragma unroll
  for (int n = 0; n < kTile<kD> / kTeam; ++n) products[n] = 0;
  for (int c = 0; c < head_dim; ++c) {
    float x = own[c];
#pragma unroll
    for (int n = 0; n < kTile<kD> / kTeam; ++n)
      products[n] += x * other[(threadIdx.x % kTeam + n * kTeam) * kStride<kD> + c];
  }
}

// sums[c] += weights of the thread's row times column threadIdx.x % kTeam + kTeam c of the other tile's rows.
template <int kD>
AM_DEVICE void add_rows(float (&sums)[kD / kTeam], const float* weights, const float* other, int head_dim) {
  for (int r = 0; r < kTile<kD>; ++r) {
    float x = weights[r];
#pragma unroll
    for (int c = 0; c < kD / kTeam; ++c) {
      if (c * kTeam >= head_dim) break;
      sums[c] += x * other[r * kStride<kD> + threadIdx.x % kTeam + c * kTeam];
    }
  }
}

struct Forward {
  Problem problem;
  Rows<float> q, k, v;
  Target out;
  float* lse;
  bool merge;
};

template <int kD>
__global__ void __launch_bounds__(kThreads<kD>) forward_kernel(Forward f) {
  constexpr int kSize = kTile<kD>, kOthers = kSize / kTeam;
  const Problem& p = f.problem;
  float* q = shared_memory<float>();
  float* k = q + kSize * kStride<kD>;
  float* v = k + kSize * kStride<kD>;
  float* weights = v + kSize * kStride<kD>;  // [kSize][kSize + 1]
  int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kSize, head = blockIdx.y, row = blockIdx.z;
  int count = min(kSize, p.sequence - first), own = threadIdx.x / kTeam, member = threadIdx.x % kTeam;
  int i = first + own, kv_column = head / p.group * p.head_dim;
  bool used = own < count;
  int from = used ? p.see_from(row, i) : 1, to = used ? p.see_to(i) : 0;
  int begin = p.see_from(row, first), end = p.see_to(first + count - 1) + 1;

  float highest = -kInfinity, total = 0, sum[kD / kTeam];
#pragma unroll
  for (float& x : sum) x = 0;
  if (f.merge && used && f.lse[p.lse_at(row, head, i)] != -kInfinity) {
    highest = f.lse[p.lse_at(row, head, i)] * kLog2E;
    total = member == 0 ? 1 : 0;
#pragma unroll
    for (int c = 0; c < kD / kTeam; ++c) {
      int column = member + c * kTeam;
      if (column < p.head_dim) sum[c] = f.out.get_f32(p.query_row(row, i), head * p.head_dim + column);
    }
  }
  read_tile<kD>(q, head_of(f.q, p.query_row(row, first), head * p.head_dim), count, p.head_dim);
  for (int key = begin / kSize * kSize; key < end; key += kSize) {
    __syncthreads();
    read_tile<kD>(k, head_of(f.k, p.key_row(row, key), kv_column), p.keys - key, p.head_dim);
    read_tile<kD>(v, head_of(f.v, p.key_row(row, key), kv_column), p.keys - key, p.head_dim);
    __syncthreads();
    float scores[kOthers];
    multiply_rows<kD>(scores, q + own * kStride<kD>, k, p.head_dim);
    float before = highest;
#pragma unroll
    for (int n = 0; n < kOthers; ++n) {
      int j = key + member + n * kTeam;
      scores[n] = j >= from && j <= to ? scores[n] * (p.scale * kLog2E) : -kInfinity;
      highest = scores[n] > highest ? scores[n] : highest;
    }
    highest = warp_reduce<kTeam>(highest, Larger{});
    float base = highest == -kInfinity ? 0 : highest, rescale = exp2f(before - base);
    total *= rescale;
#pragma unroll
    for (int n = 0; n < kOthers; ++n) {
      float x = exp2f(scores[n] - base);
      total += x;
      if (p.drops) x *= Drops(p, row, head).factor(i, key + member + n * kTeam);
      weights[own * (kSize + 1) + member + n * kTeam] = x;
    }
#pragma unroll
    for (float& x : sum) x *= rescale;
    __syncwarp();
    add_rows<kD>(sum, weights + own * (kSize + 1), v, p.head_dim);
  }
  total = warp_reduce<kTeam>(total);
  if (!used) return;
  if (member == 0) f.lse[p.lse_at(row, head, i)] = total == 0 ? -kInfinity : highest * kLn2 + logf(total);
  float factor = total == 0 ? 0 : 1 / total;
#pragma unroll
  for (int c = 0; c < kD / kTeam; ++c) {
    int column = member + c * kTeam;
    if (column < p.head_dim) f.out.put(p.query_row(row, i), head * p.head_dim + column, sum[c] * factor);
  }
}

struct Backward {
  Problem problem;
  Rows<float> q, k, v, dout;
  Target dq, dk, dv;
  const float* lse;
  const float* delta;
};

struct Weight {
  float kept, slope;  // for dV; dS / scale
};

// Of query i and key j, from their score and the slope of the weight.
AM_DEVICE Weight weigh(const Backward& b, int row, int head, int i, int j, float score, float slope) {
  const Problem& p = b.problem;
  if (i >= p.sequence || j < p.see_from(row, i) || j > p.see_to(i)) return {0, 0};
  float lse = b.lse[p.lse_at(row, head, i)];
  if (lse == -kInfinity) return {0, 0};
  float weight = exp2f((score * p.scale - lse) * kLog2E);
  float kept = p.drops ? Drops(p, row, head).factor(i, j) : 1;
  return {weight * kept, weight * (slope * kept - b.delta[p.lse_at(row, head, i)])};
}

// The tiles of a backward kernel and the weights of its own rows.
template <int kD>
struct Memory {
  float* own[2];
  float* other[2];
  float* weights;
  float* slopes;  // [kTile][kTile + 1] both
  AM_DEVICE Memory() {
    constexpr int kSize = kTile<kD>;
    float* memory = shared_memory<float>();
    for (int i = 0; i < 2; ++i) {
      own[i] = memory + i * kSize * kStride<kD>;
      other[i] = memory + (2 + i) * kSize * kStride<kD>;
    }
    weights = memory + 4 * kSize * kStride<kD>;
    slopes = weights + kSize * (kSize + 1);
  }
};
template <int kD>
size_t memory_bytes() {
  constexpr int kSize = kTile<kD>;
  return (4 * kSize * kStride<kD> + 2 * kSize * (kSize + 1)) * sizeof(float);
}

template <int kD>
AM_DEVICE void put_row(const Target& to, const float (&sums)[kD / kTeam], int64_t row, int head_column, int head_dim,
                       float factor) {
#pragma unroll
  for (int c = 0; c < kD / kTeam; ++c) {
    int column = threadIdx.x % kTeam + c * kTeam;
    if (column < head_dim) to.put(row, head_column + column, sums[c] * factor);
  }
}

// dQ of a tile of queries of one head.
template <int kD>
__global__ void __launch_bounds__(kThreads<kD>) queries_kernel(Backward b) {
  constexpr int kSize = kTile<kD>, kOthers = kSize / kTeam;
  const Problem& p = b.problem;
  Memory<kD> m;
  int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kSize, head = blockIdx.y, row = blockIdx.z;
  int count = min(kSize, p.sequence - first), own = threadIdx.x / kTeam, member = threadIdx.x % kTeam;
  int begin = p.see_from(row, first), end = p.see_to(first + count - 1) + 1;
  int column = head * p.head_dim, kv_column = head / p.group * p.head_dim;
  read_tile<kD>(m.own[0], head_of(b.q, p.query_row(row, first), column), count, p.head_dim);
  read_tile<kD>(m.own[1], head_of(b.dout, p.query_row(row, first), column), count, p.head_dim);
  float dq[kD / kTeam];
#pragma unroll
  for (float& x : dq) x = 0;
  for (int key = begin / kSize * kSize; key < end; key += kSize) {
    __syncthreads();
    read_tile<kD>(m.other[0], head_of(b.k, p.key_row(row, key), kv_column), p.keys - key, p.head_dim);
    read_tile<kD>(m.other[1], head_of(b.v, p.key_row(row, key), kv_column), p.keys - key, p.head_dim);
    __syncthreads();
    float scores[kOthers], slopes[kOthers];
    multiply_rows<kD>(scores, m.own[0] + own * kStride<kD>, m.other[0], p.head_dim);
    multiply_rows<kD>(slopes, m.own[1] + own * kStride<kD>, m.other[1], p.head_dim);
#pragma unroll
    for (int n = 0; n < kOthers; ++n) {
      int t = member + n * kTeam;
      m.slopes[own * (kSize + 1) + t] = weigh(b, row, head, first + own, key + t, scores[n], slopes[n]).slope;
    }
    __syncwarp();
    add_rows<kD>(dq, m.slopes + own * (kSize + 1), m.other[0], p.head_dim);
  }
  if (own < count) put_row<kD>(b.dq, dq, p.query_row(row, first + own), column, p.head_dim, p.scale);
}

// dK and dV of a tile of keys of one key/value head.
template <int kD>
__global__ void __launch_bounds__(kThreads<kD>) keys_kernel(Backward b) {
  constexpr int kSize = kTile<kD>, kOthers = kSize / kTeam;
  const Problem& p = b.problem;
  Memory<kD> m;
  int first_key = blockIdx.x * kSize, kv = blockIdx.y, row = blockIdx.z, kv_column = kv * p.head_dim;
  int count = min(kSize, p.keys - first_key), own = threadIdx.x / kTeam, member = threadIdx.x % kTeam;
  read_tile<kD>(m.own[0], head_of(b.k, p.key_row(row, first_key), kv_column), count, p.head_dim);
  read_tile<kD>(m.own[1], head_of(b.v, p.key_row(row, first_key), kv_column), count, p.head_dim);
  float dk[kD / kTeam], dv[kD / kTeam];
#pragma unroll
  for (int c = 0; c < kD / kTeam; ++c) dk[c] = dv[c] = 0;
  int begin = max(first_key - p.shift, 0) / kSize * kSize;
  for (int head = kv * p.group; head < (kv + 1) * p.group; ++head)
    for (int first = begin; first < p.sequence; first += kSize) {
      if (p.see_from(row, first) > first_key + count - 1) break;
      __syncthreads();
      int64_t at = p.query_row(row, first);
      read_tile<kD>(m.other[0], head_of(b.q, at, head * p.head_dim), p.sequence - first, p.head_dim);
      read_tile<kD>(m.other[1], head_of(b.dout, at, head * p.head_dim), p.sequence - first, p.head_dim);
      __syncthreads();
      float scores[kOthers], slopes[kOthers];
      multiply_rows<kD>(scores, m.own[0] + own * kStride<kD>, m.other[0], p.head_dim);
      multiply_rows<kD>(slopes, m.own[1] + own * kStride<kD>, m.other[1], p.head_dim);
#pragma unroll
      for (int n = 0; n < kOthers; ++n) {
        int t = member + n * kTeam;
        Weight w = weigh(b, row, head, first + t, first_key + own, scores[n], slopes[n]);
        m.weights[own * (kSize + 1) + t] = w.kept;
        m.slopes[own * (kSize + 1) + t] = w.slope;
      }
      __syncwarp();
      add_rows<kD>(dv, m.weights + own * (kSize + 1), m.other[1], p.head_dim);
      add_rows<kD>(dk, m.slopes + own * (kSize + 1), m.other[0], p.head_dim);
    }
  if (own >= count) return;
  put_row<kD>(b.dk, dk, p.key_row(row, first_key + own), kv_column, p.head_dim, p.scale);
  put_row<kD>(b.dv, dv, p.key_row(row, first_key + own), kv_column, p.head_dim, 1);
}

template <int kD>
Grid grid_of(int rows, int heads, const Problem& p, size_t shared) {
  return {dim3(extent(divide_up(rows, kTile<kD>)), extent(heads), extent(p.batch)), dim3(kThreads<kD>), shared};
}

}  // namespace

void forward_f32(const Target& out, float* lse, const HeadColumns& in, const Problem& problem, bool merge) {
  int64_t d = problem.head_dim;
  Forward f{problem, rows_of<float>(in.q, d), rows_of<float>(in.k, d), rows_of<float>(in.v, d), out, lse, merge};
  with_width(d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    constexpr int kSize = kTile<kD>;
    size_t shared = (3 * kSize * kStride<kD> + kSize * (kSize + 1)) * sizeof(float);
    launch(forward_kernel<kD>, grid_of<kD>(problem.sequence, problem.heads, problem, shared), f);
  });
}

void backward_f32(const AttentionGradients& gradients, const Tensor& dout, const HeadColumns& in, const float* lse,
                  const float* delta, const Problem& problem) {
  int64_t d = problem.head_dim;
  Backward b{problem,
             rows_of<float>(in.q, d),
             rows_of<float>(in.k, d),
             rows_of<float>(in.v, d),
             rows_of<float>(dout, d),
             target_of(gradients.to.q, d, gradients.accumulate_q),
             target_of(gradients.to.k, d, gradients.accumulate_kv),
             target_of(gradients.to.v, d, gradients.accumulate_kv),
             lse,
             delta};
  with_width(d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    if (problem.keys > 0)
      launch(keys_kernel<kD>, grid_of<kD>(problem.keys, problem.kv_heads, problem, memory_bytes<kD>()), b);
    launch(queries_kernel<kD>, grid_of<kD>(problem.sequence, problem.heads, problem, memory_bytes<kD>()), b);
  });
}

}  // namespace automodel::ops::cuda::attention

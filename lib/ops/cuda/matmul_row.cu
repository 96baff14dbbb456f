// The product of one row by a matrix, at the speed of reading the matrix: a warp for each row of b when transposed,
// else columns for the lanes and ranges of rows for the blocks, whose sums a second kernel adds in order.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

constexpr int64_t kWarps = 4;  // of a block, transposed
constexpr int kSlices = 8;     // warps of a block, straight
constexpr int64_t kMostParts = 64;

struct Sizes {
  int64_t n, k, stride;
};

template <class In, class Out, int N>
__global__ void transposed_kernel(Out* c, const In* a, const In* b, const In* bias, Sizes s) {
  for (int64_t i = blockIdx.x * kWarps + warp_index(); i < s.n; i += gridDim.x * kWarps) {
    const In* row = b + i * s.stride;
    float sum = 0;
    for (int64_t j = lane_index() * N; j < s.k; j += kWarpSize * N) {
      float x[N], y[N];
      load(a + j, x);
      load(row + j, y);
#pragma unroll
      for (int q = 0; q < N; ++q) sum += x[q] * y[q];
    }
    sum = warp_reduce(sum);
    if (lane_index() == 0) c[i] = narrow<Out>(bias == nullptr ? sum : sum + widen(bias[i]));
  }
}

// partials [parts, n]: the share of a range of rows of b.
template <class In, int N>
__global__ void straight_kernel(float* partials, const In* a, const In* b, Sizes s) {
  __shared__ float sums[kSlices][kWarpSize * N];
  int64_t column = (blockIdx.x * int64_t{kWarpSize} + threadIdx.x) * N;
  int64_t begin = s.k * blockIdx.y / gridDim.y, end = s.k * (blockIdx.y + 1) / gridDim.y;
  float sum[N] = {};
  if (column < s.n)
    for (int64_t r = begin + threadIdx.y; r < end; r += kSlices) {
      float x = widen(a[r]), y[N];
      load(b + r * s.stride + column, y);
#pragma unroll
      for (int q = 0; q < N; ++q) sum[q] += x * y[q];
    }
#pragma unroll
  for (int q = 0; q < N; ++q) sums[threadIdx.y][threadIdx.x * N + q] = sum[q];
  __syncthreads();
  if (threadIdx.y != 0 || column >= s.n) return;
  for (int q = 0; q < N; ++q) {
    float total = 0;
    for (int w = 0; w < kSlices; ++w) total += sums[w][threadIdx.x * N + q];
    partials[blockIdx.y * s.n + column + q] = total;
  }
}

template <class In, class Out>
struct Finish {
  Out* c;
  const float* partials;
  const In* bias;
  int64_t n, parts;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
    static_assert(N == 1);
    float sum = bias == nullptr ? 0 : widen(bias[i]);
    for (int64_t p = 0; p < parts; ++p) sum += partials[p * n + i];
    c[i] = narrow<Out>(sum);
  }
};

template <class In, class Out>
void straight(Out* c, const In* a, const In* b, const In* bias, const Sizes& s) {
  bool wide = s.n % kPack<In> == 0 && s.stride % kPack<In> == 0 && aligned_16({b});
  int64_t columns = divide_up(s.n, kWarpSize * (wide ? kPack<In> : 1));
  int64_t parts =
      smaller(kMostParts, larger(1, smaller(divide_up(s.k, 4 * kSlices), divide_up(8 * multiprocessors(), columns))));
  auto* partials = static_cast<float*>(scratch(static_cast<size_t>(parts * s.n) * sizeof(float)));
  Grid grid{dim3(extent(columns), extent(parts)), dim3(kWarpSize, kSlices)};
  if (wide)
    launch(straight_kernel<In, kPack<In>>, grid, partials, a, b, s);
  else
    launch(straight_kernel<In, 1>, grid, partials, a, b, s);
  each<1>(s.n, false, Finish<In, Out>{c, partials, bias, s.n, parts});
}

template <class In, class Out>
void transposed(Out* c, const In* a, const In* b, const In* bias, const Sizes& s) {
  Grid grid = blocks_for(divide_up(s.n, kWarps), kWarps * kWarpSize);
  if (s.k % kPack<In> == 0 && s.stride % kPack<In> == 0 && aligned_16({a, b}))
    launch(transposed_kernel<In, Out, kPack<In>>, grid, c, a, b, bias, s);
  else
    launch(transposed_kernel<In, Out, 1>, grid, c, a, b, bias, s);
}

}  // namespace

void matmul_row(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  Sizes s{c.cols(), a.cols(), b.row_stride()};
  if (c.rows() == 0 || s.n == 0) return;
  with_type(a, [&](auto in) {
    using In = decltype(in);
    with_type(c, [&](auto out) {
      using Out = decltype(out);
      const In* bias = args.bias == nullptr ? nullptr : ptr<In>(*args.bias);
      if (args.transpose_b)
        transposed(ptr<Out>(c), ptr<In>(a), ptr<In>(b), bias, s);
      else
        straight(ptr<Out>(c), ptr<In>(a), ptr<In>(b), bias, s);
    });
  });
}

}  // namespace automodel::ops::cuda

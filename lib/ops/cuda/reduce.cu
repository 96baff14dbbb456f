// Sums: over rows (gradients of biases) in fp32, over everything (losses, gradient norms) in fp64. Each is cut into
// parts by its size alone, and the parts are added in their order.
#include "ops/cuda/reduce.h"

#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

constexpr int kSlices = 16;  // of the partial sums (or rows), each added by one warp of a block

// What the warps of a block have for each of 32 columns, added in the order of the warps; valid in warp 0.
AM_DEVICE float add_slices(float mine) {
  __shared__ float slices[kSlices][kWarpSize];
  slices[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  float sum = 0;
  if (threadIdx.y == 0)
    for (int s = 0; s < kSlices; ++s) sum += slices[s][threadIdx.x];
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kSlices* kWarpSize)
    add_partials_kernel(float* out, const float* partials, int64_t count, int64_t width, int64_t stride,
                        bool accumulate) {
  int64_t col = blockIdx.x * int64_t{kWarpSize} + threadIdx.x;
  float sum = 0;
  if (col < width)
    for (int64_t p = threadIdx.y; p < count; p += kSlices) sum += partials[p * stride + col];
  sum = add_slices(sum);
  if (threadIdx.y == 0 && col < width) out[col] = accumulate ? out[col] + sum : sum;
}

template <class T>
__global__ void __launch_bounds__(kSlices* kWarpSize)
    sum_rows_kernel(float* partials, const T* x, int64_t rows, int64_t width, int64_t stride) {
  int64_t col = blockIdx.x * int64_t{kWarpSize} + threadIdx.x;
  int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum = 0;
  if (col < width)
    for (int64_t row = begin + threadIdx.y; row < end; row += kSlices) sum += widen(x[row * stride + col]);
  sum = add_slices(sum);
  if (threadIdx.y == 0 && col < width) partials[blockIdx.y * width + col] = sum;
}

constexpr int64_t kSumThreads = 256, kSumBlocks = 1024, kSumElements = 32;  // elements: of a thread, at least

template <class T, bool kSquares>
__global__ void sum_all_kernel(double* partials, const T* x, int64_t n) {
  double sum = 0;
  int64_t all = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += all) {
    auto v = static_cast<double>(widen(x[i]));
    sum += kSquares ? v * v : v;
  }
  sum = block_reduce(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void finish_sum_kernel(double* out, const double* partials, int64_t count, bool accumulate) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
  sum = block_reduce(sum);
  if (threadIdx.x == 0) *out = accumulate ? *out + sum : sum;
}

template <bool kSquares>
void sum_all(const Tensor& out, const Tensor& x, bool accumulate) {
  int64_t n = x.numel(), blocks = smaller(divide_up(n, kSumThreads * kSumElements), kSumBlocks);
  auto* partials = static_cast<double*>(scratch(static_cast<size_t>(blocks) * sizeof(double)));
  if (blocks > 0)
    with_type(x, [&](auto tag) {
      using T = decltype(tag);
      launch(sum_all_kernel<T, kSquares>, {dim3(extent(blocks)), dim3(extent(kSumThreads))}, partials, ptr<T>(x), n);
    });
  launch(finish_sum_kernel, {dim3(1), dim3(extent(kSumThreads))}, ptr<double>(out), partials, blocks, accumulate);
}

}  // namespace

int64_t partial_count(int64_t rows) {
  return larger(1, smaller(divide_up(rows, 4), 4 * multiprocessors()));
}

void add_partials(float* out, const float* partials, int64_t count, int64_t width, int64_t stride, bool accumulate) {
  if (width == 0) return;
  launch(add_partials_kernel, {dim3(extent(divide_up(width, kWarpSize))), dim3(kWarpSize, kSlices)}, out, partials,
         count, width, stride, accumulate);
}

void sum_rows(const Tensor& out, const Tensor& x, bool accumulate) {
  int64_t rows = x.rows(), width = out.numel();
  if (width == 0) return;
  int64_t columns = divide_up(width, kWarpSize);
  int64_t parts = larger(1, smaller(divide_up(rows, 4 * kSlices), divide_up(8 * multiprocessors(), columns)));
  auto* partials = static_cast<float*>(scratch(static_cast<size_t>(parts * width) * sizeof(float)));
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    launch(sum_rows_kernel<T>, {dim3(extent(columns), extent(parts)), dim3(kWarpSize, kSlices)}, partials, ptr<T>(x),
           rows, width, x.row_stride());
  });
  add_partials(ptr<float>(out), partials, parts, width, width, accumulate);
}

void sum_squares(const Tensor& out, const Tensor& x, bool accumulate) {
  sum_all<true>(out, x, accumulate);
}

void sum(const Tensor& out, const Tensor& x, bool accumulate) {
  sum_all<false>(out, x, accumulate);
}

}  // namespace automodel::ops::cuda

// Rows on their way to the experts and back.
#include "ops/cuda/kernel.h"
#include "ops/cuda/sort.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

// Behind the last copy there is -1; tokens are those of the copies.
struct FinishOrder {
  int32_t* copies;
  int32_t* tokens;
  const int32_t* used;
  int32_t choices;
  template <int N>
  AM_DEVICE void operator()(int64_t place, Lanes<N>) const {
    static_assert(N == 1);
    if (place >= *used) copies[place] = -1;
    tokens[place] = place < *used ? copies[place] / choices : -1;
  }
};

template <class T>
struct SumCopies {
  T* y;
  const T* x;
  const int32_t* slots;
  int64_t width, choices;
  bool accumulate;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    float sum[N] = {}, v[N];
    for (int64_t j = 0; j < choices; ++j) {
      int64_t slot = slots[row * choices + j];
      if (slot < 0) continue;
      load(x + slot * width + col, v);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
    if (accumulate) {
      load(y + row * width + col, v);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
    store(y + row * width + col, sum);
  }
};

template <class T>
struct ScaleRows {
  T* y;
  const T* x;
  const float* scales;
  int64_t width;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    float v[N], s = scales[row];
    load(x + row * width + col, v);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] *= s;
    store(y + row * width + col, v);
  }
};

constexpr int64_t kWarps = 8;  // of a block

template <class T, int N>
__global__ void row_products_kernel(float* out, const T* a, const T* b, int64_t rows, int64_t width) {
  for (int64_t row = blockIdx.x * kWarps + warp_index(); row < rows; row += gridDim.x * kWarps) {
    float sum = 0;
    for (int64_t c = lane_index() * N; c < width; c += kWarpSize * N) {
      float x[N], y[N];
      load(a + row * width + c, x);
      load(b + row * width + c, y);
#pragma unroll
      for (int i = 0; i < N; ++i) sum += x[i] * y[i];
    }
    sum = warp_reduce(sum);
    if (lane_index() == 0) out[row] = sum;
  }
}

}  // namespace

void order_copies(const Tensor& counts, const Tensor& slots, const Tensor& copies, const Tensor& tokens,
                  const Tensor& experts) {
  int64_t n = counts.numel(), all = experts.numel();
  int64_t size = sort_pass_size(all, n);
  auto* working = static_cast<int32_t*>(scratch(static_cast<size_t>(size) * sizeof(int32_t)));
  sort_pass({.keys = ptr<int32_t>(experts),
             .count = all,
             .bins = n,
             .sorted_values = ptr<int32_t>(copies),
             .places = ptr<int32_t>(slots),
             .totals = ptr<int32_t>(counts)},
            working);
  if (all > 0)
    each<1>(all, false,
            FinishOrder{ptr<int32_t>(copies), ptr<int32_t>(tokens), working + size - 1,
                        static_cast<int32_t>(experts.cols())});
}

void sum_copies(const Tensor& y, const Tensor& x, const Tensor& slots, bool accumulate) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    each_row<kPack<T>>(y.rows(), y.cols(), aligned_16({y.raw(), x.raw()}),
                       SumCopies<T>{ptr<T>(y), ptr<T>(x), ptr<int32_t>(slots), y.cols(), slots.cols(), accumulate});
  });
}

void scale_rows(const Tensor& y, const Tensor& x, const Tensor& scales) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    each_row<kPack<T>>(y.rows(), y.cols(), aligned_16({y.raw(), x.raw()}),
                       ScaleRows<T>{ptr<T>(y), ptr<T>(x), ptr<float>(scales), y.cols()});
  });
}

void row_products(const Tensor& out, const Tensor& a, const Tensor& b) {
  int64_t rows = a.rows(), width = a.cols();
  if (rows == 0) return;
  with_type(a, [&](auto tag) {
    using T = decltype(tag);
    Grid grid = blocks_for(divide_up(rows, kWarps), kWarps * kWarpSize);
    if (width % kPack<T> == 0 && aligned_16({a.raw(), b.raw()}))
      launch(row_products_kernel<T, kPack<T>>, grid, ptr<float>(out), ptr<T>(a), ptr<T>(b), rows, width);
    else
      launch(row_products_kernel<T, 1>, grid, ptr<float>(out), ptr<T>(a), ptr<T>(b), rows, width);
  });
}

}  // namespace automodel::ops::cuda

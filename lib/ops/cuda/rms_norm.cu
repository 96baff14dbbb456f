// RMS norm of whole rows and of single heads. With h = x rstd (rounded to the compute type) and g = dy w:
// dx = rstd (g - h mean(g h)), dw = sum over rows of dy h. A block takes a row at a time (a warp a head), and keeps its
// share of dw in memory of its own: threads always take the same columns, so nothing is shared while rows go by.
#include "ops/cuda/kernel.h"
#include "ops/cuda/reduce.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

template <class T, int N>
__global__ void __launch_bounds__(kMostThreads)
    forward_rows(T* y, float* rstd, const T* x, const T* w, int64_t rows, int64_t width, float eps) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* in = x + row * width;
    float squares = 0;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float v[N];
      load(in + c, v);
#pragma unroll
      for (int j = 0; j < N; ++j) squares += v[j] * v[j];
    }
    float r = 1.0f / sqrtf(block_reduce(squares) / static_cast<float>(width) + eps);
    if (threadIdx.x == 0) rstd[row] = r;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float v[N], weight[N];
      load(in + c, v);
      load(w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = rounded_to<T>(v[j] * r) * weight[j];
      store(y + row * width + c, v);
    }
  }
}

template <class T>
struct BackwardRows {
  T* dx;
  const T* dy;
  const T* x;
  const float* rstd;
  const T* w;
  int64_t rows, width;
  bool accumulate;
  float* partials;  // [blocks, width], or nullptr
  bool sums_in_shared;
};

template <class T, int N>
__global__ void __launch_bounds__(kMostThreads) backward_rows(BackwardRows<T> work) {
  int64_t width = work.width;
  float* share = work.partials == nullptr ? nullptr : work.partials + blockIdx.x * width;
  float* sums = share != nullptr && work.sums_in_shared ? shared_memory<float>() : share;
  if (sums != nullptr)
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N)
      for (int j = 0; j < N; ++j) sums[c + j] = 0;
  for (int64_t row = blockIdx.x; row < work.rows; row += gridDim.x) {
    const T* in = work.x + row * width;
    const T* above = work.dy + row * width;
    T* out = work.dx + row * width;
    float r = work.rstd[row], dots = 0;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float d[N], v[N], weight[N];
      load(above + c, d);
      load(in + c, v);
      load(work.w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) dots += d[j] * weight[j] * rounded_to<T>(v[j] * r);
    }
    float mean = block_reduce(dots) / static_cast<float>(width);
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float d[N], v[N], weight[N], before[N] = {};
      load(above + c, d);
      load(in + c, v);
      load(work.w + c, weight);
      if (work.accumulate) load(out + c, before);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float h = rounded_to<T>(v[j] * r);
        if (sums != nullptr) sums[c + j] += d[j] * h;
        v[j] = r * (d[j] * weight[j] - h * mean) + before[j];
      }
      store(out + c, v);
    }
  }
  if (sums != nullptr && sums != share)
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N)
      for (int j = 0; j < N; ++j) share[c + j] = sums[c + j];
}

constexpr int64_t kHeadWarps = 8;  // of a block

struct Heads {
  int64_t rows, heads, head_dim;
  int64_t stride;  // from a row to the next of the columns in place
};

template <class T, int N>
__global__ void __launch_bounds__(kHeadWarps* kWarpSize)
    forward_heads(T* x, T* before, float* rstd, const T* w, Heads h, float eps) {
  int64_t units = h.rows * h.heads, all = gridDim.x * kHeadWarps;
  for (int64_t unit = blockIdx.x * kHeadWarps + warp_index(); unit < units; unit += all) {
    T* head = x + unit / h.heads * h.stride + unit % h.heads * h.head_dim;
    T* kept = before + unit * h.head_dim;
    float v[N], weight[N], squares = 0;
    for (int64_t c = lane_index() * N; c < h.head_dim; c += kWarpSize * N) {
      copy_chunk<N>(kept + c, head + c);
      load(head + c, v);
#pragma unroll
      for (int j = 0; j < N; ++j) squares += v[j] * v[j];
    }
    float r = 1.0f / sqrtf(warp_reduce(squares) / static_cast<float>(h.head_dim) + eps);
    if (lane_index() == 0) rstd[unit] = r;
    for (int64_t c = lane_index() * N; c < h.head_dim; c += kWarpSize * N) {
      load(kept + c, v);
      load(w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = rounded_to<T>(v[j] * r) * weight[j];
      store(head + c, v);
    }
  }
}

// partials [blocks * kHeadWarps, head_dim]: the share of each warp in dw; nullptr: not wanted.
template <class T, int N>
__global__ void __launch_bounds__(kHeadWarps* kWarpSize)
    backward_heads(T* dx, const T* before, const float* rstd, const T* w, Heads h, float* partials) {
  int64_t units = h.rows * h.heads, all = gridDim.x * kHeadWarps, warp = blockIdx.x * kHeadWarps + warp_index();
  float* sums = partials == nullptr ? nullptr : partials + warp * h.head_dim;
  if (sums != nullptr)
    for (int64_t c = lane_index() * N; c < h.head_dim; c += kWarpSize * N)
      for (int j = 0; j < N; ++j) sums[c + j] = 0;
  for (int64_t unit = warp; unit < units; unit += all) {
    T* head = dx + unit / h.heads * h.stride + unit % h.heads * h.head_dim;
    const T* kept = before + unit * h.head_dim;
    float d[N], v[N], weight[N], r = rstd[unit], dots = 0;
    for (int64_t c = lane_index() * N; c < h.head_dim; c += kWarpSize * N) {
      load(head + c, d);
      load(kept + c, v);
      load(w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) dots += d[j] * weight[j] * rounded_to<T>(v[j] * r);
    }
    float mean = warp_reduce(dots) / static_cast<float>(h.head_dim);
    for (int64_t c = lane_index() * N; c < h.head_dim; c += kWarpSize * N) {
      load(head + c, d);
      load(kept + c, v);
      load(w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float normed = rounded_to<T>(v[j] * r);
        if (sums != nullptr) sums[c + j] += d[j] * normed;
        v[j] = r * (d[j] * weight[j] - normed * mean);
      }
      store(head + c, v);
    }
  }
}

float* partials_of(int64_t blocks, int64_t width) {
  return static_cast<float*>(scratch(static_cast<size_t>(blocks * width) * sizeof(float)));
}

}  // namespace

void rms_norm_forward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps) {
  int64_t rows = x.rows(), width = x.cols();
  if (rows == 0) return;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    auto run = [&](auto kernel, int64_t chunks) {
      launch(kernel, blocks_for(rows, threads_for(chunks)), ptr<T>(y), ptr<float>(rstd), ptr<T>(x), ptr<T>(w), rows,
             width, eps);
    };
    if (width % kPack<T> == 0 && aligned_16({y.raw(), x.raw(), w.raw()}))
      run(forward_rows<T, kPack<T>>, width / kPack<T>);
    else
      run(forward_rows<T, 1>, width);
  });
}

void rms_norm_backward(const Tensor& dx, bool accumulate_dx, const Tensor& dw, bool accumulate_dw, const Tensor& dy,
                       const Tensor& x, const Tensor& rstd, const Tensor& w) {
  int64_t rows = x.rows(), width = x.cols(), blocks = partial_count(rows);
  bool wanted = dw.defined();
  size_t shared = static_cast<size_t>(width) * sizeof(float);
  bool fits = shared <= most_shared_memory() / 2;
  float* partials = wanted ? partials_of(blocks, width) : nullptr;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    BackwardRows<T> work{ptr<T>(dx), ptr<T>(dy), ptr<T>(x),     ptr<float>(rstd), ptr<T>(w),
                         rows,       width,      accumulate_dx, partials,         fits};
    auto run = [&](auto kernel, int64_t chunks) {
      if (wanted)
        launch(kernel, {dim3(extent(blocks)), dim3(extent(threads_for(chunks))), fits ? shared : 0}, work);
      else if (rows > 0)
        launch(kernel, blocks_for(rows, threads_for(chunks)), work);
    };
    if (width % kPack<T> == 0 && aligned_16({dx.raw(), dy.raw(), x.raw(), w.raw()}))
      run(backward_rows<T, kPack<T>>, width / kPack<T>);
    else
      run(backward_rows<T, 1>, width);
  });
  if (wanted) add_partials(ptr<float>(dw), partials, blocks, width, width, accumulate_dw);
}

void head_norm_forward(const Tensor& x, const Tensor& before, const Tensor& rstd, const Tensor& w, int64_t begin,
                       float eps) {
  int64_t head_dim = w.numel();
  Heads heads{before.rows(), before.cols() / head_dim, head_dim, x.row_stride()};
  if (heads.rows * heads.heads == 0) return;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* columns = ptr<T>(x) + begin;
    Grid grid = blocks_for(divide_up(heads.rows * heads.heads, kHeadWarps), kHeadWarps * kWarpSize);
    with_warp_width<T>(
        head_dim, {{columns, x.row_stride()}, {before.raw(), head_dim}, {w.raw(), 0}}, [&]<int N>(Lanes<N>) {
          launch(forward_heads<T, N>, grid, columns, ptr<T>(before), ptr<float>(rstd), ptr<T>(w), heads, eps);
        });
  });
}

void head_norm_backward(const Tensor& dx, const Tensor& dw, bool accumulate_dw, const Tensor& before,
                        const Tensor& rstd, const Tensor& w, int64_t begin) {
  int64_t head_dim = w.numel();
  Heads heads{before.rows(), before.cols() / head_dim, head_dim, dx.row_stride()};
  int64_t blocks = partial_count(divide_up(heads.rows * heads.heads, 2));
  float* partials = dw.defined() ? partials_of(blocks * kHeadWarps, head_dim) : nullptr;
  with_type(before, [&](auto tag) {
    using T = decltype(tag);
    T* columns = ptr<T>(dx) + begin;
    with_warp_width<T>(head_dim, {{columns, dx.row_stride()}, {before.raw(), head_dim}, {w.raw(), 0}},
                       [&]<int N>(Lanes<N>) {
                         launch(backward_heads<T, N>, {dim3(extent(blocks)), dim3(extent(kHeadWarps * kWarpSize))},
                                columns, ptr<T>(before), ptr<float>(rstd), ptr<T>(w), heads, partials);
                       });
  });
  if (dw.defined()) add_partials(ptr<float>(dw), partials, blocks * kHeadWarps, head_dim, head_dim, accumulate_dw);
}

}  // namespace automodel::ops::cuda

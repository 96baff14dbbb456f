// Layer norm. With h = (x - mean) rstd and g = dy w:
// dx = rstd (g - mean(g) - h mean(g h)), dw = sum over rows of dy h, db = sum over rows of dy. A block takes a row at a
// time and keeps its share of dw and db in global memory of its own, which its cache holds.
#include "ops/cuda/kernel.h"
#include "ops/cuda/reduce.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

struct Rows {
  int64_t count, width;
};

template <class T>
struct Forward {
  T* y;
  float* mean;
  float* rstd;
  const T* x;
  const T* w;
  const T* b;
  float eps;
};

template <class T, int N>
__global__ void __launch_bounds__(kMostThreads) forward_rows(Forward<T> f, Rows rows) {
  int64_t width = rows.width;
  auto count = static_cast<float>(width);
  for (int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    const T* in = f.x + row * width;
    float sum = 0, squares = 0;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float v[N];
      load(in + c, v);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += v[j];
    }
    float m = block_reduce(sum) / count;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float v[N];
      load(in + c, v);
#pragma unroll
      for (int j = 0; j < N; ++j) squares += (v[j] - m) * (v[j] - m);
    }
    float r = 1.0f / sqrtf(block_reduce(squares) / count + f.eps);
    if (threadIdx.x == 0) f.mean[row] = m, f.rstd[row] = r;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float v[N], weight[N], bias[N];
      load(in + c, v);
      load(f.w + c, weight);
      load(f.b + c, bias);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = (v[j] - m) * r * weight[j] + bias[j];
      store(f.y + row * width + c, v);
    }
  }
}

template <class T>
struct Backward {
  T* dx;
  bool accumulate;
  const T* dy;
  const T* x;
  const float* mean;
  const float* rstd;
  const T* w;
  float* partials;  // [blocks, 2, width]: dw, db; or nullptr
};

template <class T, int N>
__global__ void __launch_bounds__(kMostThreads) backward_rows(Backward<T> b, Rows rows) {
  int64_t width = rows.width;
  auto count = static_cast<float>(width);
  float* sums = b.partials == nullptr ? nullptr : b.partials + blockIdx.x * 2 * width;
  if (sums != nullptr)
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N)
      for (int j = 0; j < N; ++j) sums[c + j] = sums[width + c + j] = 0;
  for (int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    const T* in = b.x + row * width;
    const T* above = b.dy + row * width;
    T* out = b.dx + row * width;
    float m = b.mean[row], r = b.rstd[row], sum = 0, dots = 0;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float d[N], v[N], weight[N];
      load(above + c, d);
      load(in + c, v);
      load(b.w + c, weight);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float g = d[j] * weight[j];
        sum += g;
        dots += g * ((v[j] - m) * r);
      }
    }
    float mean_g = block_reduce(sum) / count, mean_gh = block_reduce(dots) / count;
    for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
      float d[N], v[N], weight[N], before[N] = {};
      load(above + c, d);
      load(in + c, v);
      load(b.w + c, weight);
      if (b.accumulate) load(out + c, before);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float h = (v[j] - m) * r;
        if (sums != nullptr) {
          sums[c + j] += d[j] * h;
          sums[width + c + j] += d[j];
        }
        v[j] = r * (d[j] * weight[j] - mean_g - h * mean_gh) + before[j];
      }
      store(out + c, v);
    }
  }
}

// kernel: of the width, blocks for it.
template <class T, class F>
void with_width(int64_t width, bool aligned, F&& f) {
  if (width % kPack<T> == 0 && aligned)
    f(Lanes<kPack<T>>{}, threads_for(width / kPack<T>));
  else
    f(Lanes<1>{}, threads_for(width));
}

template <class T, int N>
void run_forward(const Forward<T>& f, Rows rows, int64_t threads) {
  launch(forward_rows<T, N>, blocks_for(rows.count, threads), f, rows);
}
template <class T, int N>
void run_backward(const Backward<T>& b, Rows rows, int64_t blocks, int64_t threads) {
  launch(backward_rows<T, N>, {dim3(extent(blocks)), dim3(extent(threads))}, b, rows);
}

}  // namespace

void layer_norm_forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& w,
                        const Tensor& b, float eps) {
  Rows rows{x.rows(), x.cols()};
  if (rows.count == 0) return;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    Forward<T> f{ptr<T>(y), ptr<float>(mean), ptr<float>(rstd), ptr<T>(x), ptr<T>(w), ptr<T>(b), eps};
    with_width<T>(rows.width, aligned_16({y.raw(), x.raw(), w.raw(), b.raw()}),
                  [&]<int N>(Lanes<N>, int64_t threads) { run_forward<T, N>(f, rows, threads); });
  });
}

void layer_norm_backward(const Tensor& dx, bool accumulate_dx, const Tensor& dw, const Tensor& db, bool accumulate_dw,
                         const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& w) {
  Rows rows{x.rows(), x.cols()};
  int64_t blocks = partial_count(rows.count), width = rows.width;
  bool wanted = dw.defined() || db.defined();
  float* partials =
      wanted ? static_cast<float*>(scratch(static_cast<size_t>(blocks * 2 * width) * sizeof(float))) : nullptr;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    Backward<T> b{ptr<T>(dx),       accumulate_dx,    ptr<T>(dy), ptr<T>(x),
                  ptr<float>(mean), ptr<float>(rstd), ptr<T>(w),  partials};
    with_width<T>(width, aligned_16({dx.raw(), dy.raw(), x.raw(), w.raw()}),
                  [&]<int N>(Lanes<N>, int64_t threads) { run_backward<T, N>(b, rows, blocks, threads); });
  });
  if (dw.defined()) add_partials(ptr<float>(dw), partials, blocks, width, 2 * width, accumulate_dw);
  if (db.defined()) add_partials(ptr<float>(db), partials + width, blocks, width, 2 * width, accumulate_dw);
}

}  // namespace automodel::ops::cuda

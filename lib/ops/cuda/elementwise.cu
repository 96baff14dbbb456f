// add, scale, cast, copy_columns.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

template <class T>
struct Add {
  T* y;
  const T* a;
  const T* b;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
    float x[N], other[N];
    load(a + i, x);
    load(b + i, other);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] += other[j];
    store(y + i, x);
  }
};

template <class T>
struct Scale {
  T* y;
  float s;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
    float x[N];
    load(y + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] *= s;
    store(y + i, x);
  }
};

template <class To, class From>
struct Cast {
  To* y;
  const From* x;
  int64_t y_stride, x_stride;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N> lanes) const {
    (*this)(0, i, lanes);
  }
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    To* to = y + row * y_stride + col;
    const From* from = x + row * x_stride + col;
    if constexpr (sizeof(To) == sizeof(From)) {
      copy_chunk<N>(to, from);
    } else {
      float numbers[N];
      load(from, numbers);
      store(to, numbers);
    }
  }
};

template <class F>
void with_types(const Tensor& y, const Tensor& x, F&& f) {
  with_type(y, [&](auto to) { with_type(x, [&](auto from) { f(to, from); }); });
}

}  // namespace

void add(const Tensor& y, const Tensor& a, const Tensor& b) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    each<kPack<T>>(y.numel(), aligned_16({y.raw(), a.raw(), b.raw()}), Add<T>{ptr<T>(y), ptr<T>(a), ptr<T>(b)});
  });
}

void scale(const Tensor& y, float s) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    each<kPack<T>>(y.numel(), aligned_16({y.raw()}), Scale<T>{ptr<T>(y), s});
  });
}

void cast(const Tensor& y, const Tensor& x) {
  if (y.raw() == x.raw() && y.dtype() == x.dtype()) return;
  with_types(y, x, [&](auto to, auto from) {
    using To = decltype(to);
    using From = decltype(from);
    each<kPackOf<To, From>>(y.numel(), aligned_16({y.raw(), x.raw()}), Cast<To, From>{ptr<To>(y), ptr<From>(x), 0, 0});
  });
}

void copy_columns(const Tensor& y, const Tensor& x) {
  with_types(y, x, [&](auto to, auto from) {
    using To = decltype(to);
    using From = decltype(from);
    constexpr int kWidth = kPackOf<To, From>;
    bool aligned = aligned_16({y.raw(), x.raw()}) && y.row_stride() % kWidth == 0 && x.row_stride() % kWidth == 0;
    each_row<kWidth>(y.rows(), y.cols(), aligned,
                     Cast<To, From>{ptr<To>(y), ptr<From>(x), y.row_stride(), x.row_stride()});
  });
}

}  // namespace automodel::ops::cuda

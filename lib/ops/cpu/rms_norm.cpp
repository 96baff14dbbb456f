// RMS norm (Zhang and Sennrich, 2019) of whole rows and of single heads. With h = x rstd and g = dy w:
// dx = rstd (g - h mean(g h)), dw = sum over rows of dy h. h is rounded to the compute type, as Hugging Face's is.
#include <cmath>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

// y = x rstd w over `width` elements; returns rstd. y may be x.
template <class T>
AM_INLINE float forward_row(T* y, const T* x, const T* w, int64_t width, float eps) {
  VecF squares{};
  for_vectors(0, width, [&](int64_t i, int64_t n) {
    VecF v = load_n(x + i, n);
    squares += v * v;
  });
  float rstd = 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(width) + eps);
  for_vectors(0, width, [&](int64_t i, int64_t n) {
    store_n(y + i, rounded_to<T>(load_n(x + i, n) * rstd) * load_n(w + i, n), n);
  });
  return rstd;
}

// dx (+)= the gradient of a row; dw, unless nullptr, gains the row's share. dx may be dy.
template <class T>
AM_INLINE void backward_row(T* dx, bool accumulate, float* dw, const T* dy, const T* x, float rstd, const T* w,
                            int64_t width) {
  VecF dots{};
  for_vectors(0, width, [&](int64_t i, int64_t n) {
    dots += load_n(dy + i, n) * load_n(w + i, n) * rounded_to<T>(load_n(x + i, n) * rstd);
  });
  float mean = sum_lanes(dots) / static_cast<float>(width);
  for_vectors(0, width, [&](int64_t i, int64_t n) {
    VecF d = load_n(dy + i, n);
    VecF h = rounded_to<T>(load_n(x + i, n) * rstd);
    if (dw != nullptr) store_n(dw + i, load_n(dw + i, n) + d * h, n);
    VecF gradient = rstd * (d * load_n(w + i, n) - h * mean);
    if (accumulate) gradient += load_n(dx + i, n);
    store_n(dx + i, gradient, n);
  });
}

}  // namespace

void rms_norm_forward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps) {
  int64_t width = x.cols();
  auto* scale = ptr<float>(rstd);
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    const T* from = ptr<T>(x);
    const T* weight = ptr<T>(w);
    for_rows(x.rows(), width,
             [&](int64_t row) { scale[row] = forward_row(to + row * width, from + row * width, weight, width, eps); });
  });
}

void rms_norm_backward(const Tensor& dx, bool accumulate_dx, const Tensor& dw, bool accumulate_dw, const Tensor& dy,
                       const Tensor& x, const Tensor& rstd, const Tensor& w) {
  int64_t width = x.cols();
  const auto* scale = ptr<float>(rstd);
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(dx);
    const T* above = ptr<T>(dy);
    const T* from = ptr<T>(x);
    const T* weight = ptr<T>(w);
    auto one_row = [&](int64_t row, float* partial) {
      backward_row(to + row * width, accumulate_dx, partial, above + row * width, from + row * width, scale[row],
                   weight, width);
    };
    if (dw.defined())
      sum_over_rows(x.rows(), width, accumulate_dw, {ptr<float>(dw)}, one_row);
    else
      for_rows(x.rows(), width, [&](int64_t row) { one_row(row, nullptr); });
  });
}

void head_norm_forward(const Tensor& x, const Tensor& before, const Tensor& rstd, const Tensor& w, int64_t begin,
                       float eps) {
  int64_t head_dim = w.numel(), width = before.cols(), heads = width / head_dim, stride = x.row_stride();
  auto* scale = ptr<float>(rstd);
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* data = ptr<T>(x);
    T* saved = ptr<T>(before);
    const T* weight = ptr<T>(w);
    for_rows(before.rows(), width, [&](int64_t row) {
      for (int64_t h = 0; h < heads; ++h) {
        T* head = data + row * stride + begin + h * head_dim;
        T* kept = saved + row * width + h * head_dim;
        std::memcpy(kept, head, static_cast<size_t>(head_dim) * sizeof(T));
        scale[row * heads + h] = forward_row(head, kept, weight, head_dim, eps);
      }
    });
  });
}

void head_norm_backward(const Tensor& dx, const Tensor& dw, bool accumulate_dw, const Tensor& before,
                        const Tensor& rstd, const Tensor& w, int64_t begin) {
  int64_t head_dim = w.numel(), width = before.cols(), heads = width / head_dim, stride = dx.row_stride();
  const auto* scale = ptr<float>(rstd);
  with_type(before, [&](auto tag) {
    using T = decltype(tag);
    T* data = ptr<T>(dx);
    const T* saved = ptr<T>(before);
    const T* weight = ptr<T>(w);
    auto one_row = [&](int64_t row, float* partial) {
      for (int64_t h = 0; h < heads; ++h) {
        T* head = data + row * stride + begin + h * head_dim;
        backward_row(head, false, partial, head, saved + row * width + h * head_dim, scale[row * heads + h], weight,
                     head_dim);
      }
    };
    if (dw.defined())
      sum_over_rows(before.rows(), head_dim, accumulate_dw, {ptr<float>(dw)}, one_row);
    else
      for_rows(before.rows(), width, [&](int64_t row) { one_row(row, nullptr); });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

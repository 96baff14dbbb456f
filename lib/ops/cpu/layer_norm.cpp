// Layer norm (Ba, Kiros and Hinton, 2016). With h = (x - mean) rstd and g = dy w:
// dx = rstd (g - mean(g) - h mean(g h)), dw = sum over rows of dy h, db = sum over rows of dy.
#include <cmath>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void layer_norm_forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& w,
                        const Tensor& b, float eps) {
  int64_t width = x.cols();
  auto* centre = ptr<float>(mean);
  auto* scale = ptr<float>(rstd);
  auto count = static_cast<float>(width);
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    const T* from = ptr<T>(x);
    const T* weight = ptr<T>(w);
    const T* bias = ptr<T>(b);
    for_rows(x.rows(), width, [&](int64_t row) {
      const T* in = from + row * width;
      T* out = to + row * width;
      VecF sums{};
      for_vectors(0, width, [&](int64_t i, int64_t n) { sums += load_n(in + i, n); });
      float m = sum_lanes(sums) / count;
      VecF squares{};
      for_vectors(0, width, [&](int64_t i, int64_t n) {
        VecF d = load_n(in + i, n, m) - m;
        squares += d * d;
      });
      float r = 1.0f / std::sqrt(sum_lanes(squares) / count + eps);
      centre[row] = m;
      scale[row] = r;
      for_vectors(0, width, [&](int64_t i, int64_t n) {
        store_n(out + i, (load_n(in + i, n) - m) * r * load_n(weight + i, n) + load_n(bias + i, n), n);
      });
    });
  });
}

void layer_norm_backward(const Tensor& dx, bool accumulate_dx, const Tensor& dw, const Tensor& db, bool accumulate_dw,
                         const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& w) {
  int64_t width = x.cols();
  const auto* centre = ptr<float>(mean);
  const auto* scale = ptr<float>(rstd);
  auto count = static_cast<float>(width);
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(dx);
    const T* above = ptr<T>(dy);
    const T* from = ptr<T>(x);
    const T* weight = ptr<T>(w);
    // `partial` holds the shares of dw and, `width` further, of db.
    auto one_row = [&](int64_t row, float* partial) {
      const T* d_row = above + row * width;
      const T* in = from + row * width;
      T* out = to + row * width;
      float m = centre[row], r = scale[row];
      VecF sums{}, dots{};
      for_vectors(0, width, [&](int64_t i, int64_t n) {
        VecF g = load_n(d_row + i, n) * load_n(weight + i, n);
        sums += g;
        dots += g * ((load_n(in + i, n) - m) * r);
      });
      float mean_g = sum_lanes(sums) / count, mean_gh = sum_lanes(dots) / count;
      for_vectors(0, width, [&](int64_t i, int64_t n) {
        VecF d = load_n(d_row + i, n);
        VecF h = (load_n(in + i, n) - m) * r;
        if (partial != nullptr) {
          store_n(partial + i, load_n(partial + i, n) + d * h, n);
          store_n(partial + width + i, load_n(partial + width + i, n) + d, n);
        }
        VecF gradient = r * (d * load_n(weight + i, n) - mean_g - h * mean_gh);
        if (accumulate_dx) gradient += load_n(out + i, n);
        store_n(out + i, gradient, n);
      });
    };
    if (!dw.defined() && !db.defined())
      for_rows(x.rows(), width, [&](int64_t row) { one_row(row, nullptr); });
    else
      sum_over_rows(x.rows(), width, accumulate_dw,
                    {dw.defined() ? ptr<float>(dw) : nullptr, db.defined() ? ptr<float>(db) : nullptr}, one_row);
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

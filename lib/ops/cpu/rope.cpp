// Rotary position embedding (Su et al., "RoFormer", 2021) in the half-split form of the Hugging Face models.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void rope(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin, int64_t heads,
          int64_t head_dim, bool inverse) {
  const auto* position = ptr<int32_t>(positions);
  const auto* cosines = ptr<float>(cos);
  const auto* sines = ptr<float>(sin);
  int64_t half = cos.cols(), stride = x.row_stride();
  float sign = inverse ? -1.0f : 1.0f;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* data = ptr<T>(x);
    for_rows(x.rows(), heads * head_dim, [&](int64_t row) {
      const float* c = cosines + position[row] * half;
      const float* s = sines + position[row] * half;
      for (int64_t h = 0; h < heads; ++h) {
        T* head = data + row * stride + h * head_dim;
        for_vectors(0, half, [&](int64_t i, int64_t n) {
          VecF a = load_n(head + i, n), b = load_n(head + half + i, n);
          VecF cosine = load_n(c + i, n), sine = load_n(s + i, n) * sign;
          store_n(head + i, a * cosine - b * sine, n);
          store_n(head + half + i, b * cosine + a * sine, n);
        });
      }
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Rotary position embedding in the half-split form of the Hugging Face models, in place.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

template <class T>
struct Rotate {
  T* x;
  const int32_t* positions;
  const float* cos;
  const float* sin;
  int64_t stride, head_dim, half;
  float sign;
  // `col` counts the pairs of a row: col % half of head col / half.
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    int64_t head = col / half, i = col - head * half, at = positions[row] * half + i;
    T* first = x + row * stride + head * head_dim + i;
    float a[N], b[N], c[N], s[N];
    load(first, a);
    load(first + half, b);
    load(cos + at, c);
    load(sin + at, s);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float sine = s[j] * sign, turned = a[j] * c[j] - b[j] * sine;
      b[j] = b[j] * c[j] + a[j] * sine;
      a[j] = turned;
    }
    store(first, a);
    store(first + half, b);
  }
};

}  // namespace

void rope(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin, int64_t heads,
          int64_t head_dim, bool inverse) {
  int64_t half = cos.cols(), stride = x.row_stride();
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kWidth = kPack<T>;
    bool aligned = aligned_16({x.raw(), cos.raw(), sin.raw()}) && half % kWidth == 0 && head_dim % kWidth == 0 &&
                   stride % kWidth == 0;
    each_row<kWidth>(x.rows(), heads * half, aligned,
                     Rotate<T>{ptr<T>(x), ptr<int32_t>(positions), ptr<float>(cos), ptr<float>(sin), stride, head_dim,
                               half, inverse ? -1.0f : 1.0f});
  });
}

}  // namespace automodel::ops::cuda

#include "ops/cuda/product.h"

#include "ops/cuda/kernel.h"

namespace automodel::ops::cuda {
namespace {

template <class Out, class In>
struct Fill {
  Out* c;
  const In* bias;
  int64_t stride;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    float v[N] = {};
    if (bias != nullptr) load(bias + col, v);
    store(c + row * stride + col, v);
  }
};

}  // namespace

ColumnProduct column_product(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  return {.m = c.cols(),
          .n = c.rows(),
          .k = args.transpose_a ? a.rows() : a.cols(),
          .transpose_first = args.transpose_b,
          .transpose_second = args.transpose_a,
          .first = b.raw(),
          .second = a.raw(),
          .first_stride = b.row_stride(),
          .second_stride = a.row_stride(),
          .out = c.raw(),
          .out_stride = c.row_stride(),
          .in_type = a.dtype(),
          .out_type = c.dtype(),
          .bias = args.bias == nullptr ? nullptr : args.bias->raw(),
          .accumulate = args.accumulate};
}

void fill_rows(const Tensor& c, const Tensor* bias) {
  auto run = [&](auto out, auto in) {
    using Out = decltype(out);
    using In = decltype(in);
    constexpr int kWidth = kPackOf<Out, In>;
    const In* from = bias == nullptr ? nullptr : ptr<In>(*bias);
    each_row<kWidth>(c.rows(), c.cols(), aligned_16({c.raw(), from}) && c.row_stride() % kWidth == 0,
                     Fill<Out, In>{ptr<Out>(c), from, c.row_stride()});
  };
  with_type(c, [&](auto out) {
    if (bias == nullptr)
      run(out, float{});
    else
      with_type(*bias, [&](auto in) { run(out, in); });
  });
}

bool trivial_product(const Tensor& c, const Tensor& a, const MatmulArgs& args) {
  if (c.rows() == 0 || c.cols() == 0) return true;
  if ((args.transpose_a ? a.rows() : a.cols()) > 0) return false;
  if (!args.accumulate) fill_rows(c, args.bias);
  return true;
}

}  // namespace automodel::ops::cuda

// The BLAS of the emulated device: column-major products as plain loops, to test how ours are put to a BLAS.
#include "ops/cuda/product.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

float get(const void* data, DType type, int64_t at) {
  return type == DType::kBF16 ? to_float(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
}

float element(const ColumnProduct& p, int64_t i, int64_t j) {
  float sum = 0;
  for (int64_t l = 0; l < p.k; ++l) {
    int64_t first = p.transpose_first ? i * p.first_stride + l : l * p.first_stride + i;
    int64_t second = p.transpose_second ? l * p.second_stride + j : j * p.second_stride + l;
    sum += get(p.first, p.in_type, first) * get(p.second, p.in_type, second);
  }
  return p.bias == nullptr ? sum : sum + get(p.bias, p.in_type, i);
}

}  // namespace

void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  if (trivial_product(c, a, args)) return;
  ColumnProduct p = column_product(c, a, b, args);
  for (int64_t j = 0; j < p.n; ++j)
    for (int64_t i = 0; i < p.m; ++i) {
      int64_t at = j * p.out_stride + i;
      float x = element(p, i, j) + (p.accumulate ? get(p.out, p.out_type, at) : 0);
      if (p.out_type == DType::kBF16)
        static_cast<bf16*>(p.out)[at] = to_bf16(x);
      else
        static_cast<float*>(p.out)[at] = x;
    }
}

}  // namespace automodel::ops::cuda

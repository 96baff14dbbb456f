// A product of row-major matrices as a BLAS knows it: matrices are column-major, so that the memory of c [M,N] is that
// of c^T, and c^T = op(b)^T op(a)^T. The BLAS's first factor is our b, its second our a; m = N, n = M.
#pragma once

#include "ops/kernels.h"

namespace automodel::ops::cuda {

struct ColumnProduct {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_first = false, transpose_second = false;
  const void* first = nullptr;  // stored [m, k] with leading dimension first_stride; transposed: [k, m]
  const void* second = nullptr;
  int64_t first_stride = 0, second_stride = 0;
  void* out = nullptr;  // [m, n]
  int64_t out_stride = 0;
  DType in_type = DType::kF32, out_type = DType::kF32;
  const void* bias = nullptr;  // [m] of in_type, for every column
  bool accumulate = false;
};

ColumnProduct column_product(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args);

// Every row of c [M,N] (columns) becomes the bias [N], or zeros for nullptr.
void fill_rows(const Tensor& c, const Tensor* bias);

// Does a product that needs no arithmetic (an empty c, or nothing to sum over); false when it is none.
bool trivial_product(const Tensor& c, const Tensor& a, const MatmulArgs& args);

}  // namespace automodel::ops::cuda

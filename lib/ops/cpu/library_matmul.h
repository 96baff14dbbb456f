// The fp32 product of oneDNN, which measures better than ours where no operand has to be turned.
#pragma once

#include <cstdint>
#include <string>

namespace automodel::ops::cpu {

struct LibraryProduct {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool accumulate;
};

// c = op(a) op(b), or c += with accumulate; row-major, m, n and k positive. Uses the OpenMP threads of the caller; the
// last bits may depend on their number, and on nothing else. Throws Error(kBug) when the library refuses.
void library_matmul(const LibraryProduct& product);

// "oneDNN 2.6.3".
std::string library_name();

}  // namespace automodel::ops::cpu

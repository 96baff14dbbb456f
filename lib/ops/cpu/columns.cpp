// copy_columns.
#include <cstring>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void copy_columns(const Tensor& y, const Tensor& x) {
  int64_t width = y.cols();
  with_type(y, [&](auto to_tag) {
    with_type(x, [&](auto from_tag) {
      using To = decltype(to_tag);
      using From = decltype(from_tag);
      for_rows(y.rows(), width, [&](int64_t row) {
        To* to = ptr<To>(y) + row * y.row_stride();
        const From* from = ptr<From>(x) + row * x.row_stride();
        if constexpr (sizeof(To) == sizeof(From))
          std::memcpy(to, from, static_cast<size_t>(width) * sizeof(To));
        else
          for_vectors(0, width, [&](int64_t i, int64_t n) { store_n(to + i, load_n(from + i, n), n); });
      });
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

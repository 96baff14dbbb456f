// Rows of a table by id, and their gradient. The gradient is split by columns: each thread walks all tokens in order
// over columns of its own, so that no two threads write one number and the order of a sum is the order of the tokens.
#include <cstring>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void embedding_forward(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first) {
  const auto* id = ptr<int32_t>(ids);
  auto* to = ptr<char>(y);
  const auto* from = ptr<char>(table);
  auto row_bytes = static_cast<int64_t>(size_of(y.dtype())) * table.cols();
  for_rows(ids.numel(), table.cols(), [&](int64_t row) {
    int64_t at = id[row] - first;
    if (at >= 0 && at < table.rows())
      std::memcpy(to + row * row_bytes, from + at * row_bytes, static_cast<size_t>(row_bytes));
    else
      std::memset(to + row * row_bytes, 0, static_cast<size_t>(row_bytes));
  });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first, bool accumulate) {
  const auto* id = ptr<int32_t>(ids);
  auto* to = ptr<float>(dtable);
  int64_t tokens = ids.numel(), width = dtable.cols();
  if (!accumulate)
    for_blocks(dtable.numel(), [&](int64_t begin, int64_t end) {
      std::memset(to + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
    });
  constexpr int64_t kColumns = 64;
  int64_t parts = (width + kColumns - 1) / kColumns;
  int64_t shares = tokens * width >= kGrain ? omp_get_max_threads() : 1;
  with_type(dy, [&](auto tag) {
    const auto* from = ptr<decltype(tag)>(dy);
#pragma omp parallel for schedule(static) if (shares > 1)
    for (int64_t share = 0; share < shares; ++share) {
      int64_t begin = parts * share / shares * kColumns, end = parts * (share + 1) / shares * kColumns;
      if (end > width) end = width;
      for (int64_t t = 0; t < tokens; ++t) {
        int64_t at = id[t] - first;
        if (at < 0 || at >= dtable.rows()) continue;
        float* row = to + at * width;
        for_vectors(begin, end, [&](int64_t i, int64_t n) {
          store_n(row + i, load_n(row + i, n) + load_n(from + t * width + i, n), n);
        });
      }
    }
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// The product of one row by a matrix, which generation is made of: every element of b is used once, so nothing is
// packed and all that counts is that b streams from memory. Sums are cut by the shape alone, so the result does not
// depend on the number of threads.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int kRows = 4;                      // rows of b in flight: as many chains of sums as hide an addition
constexpr int64_t kPartRows = 64;             // rows of b, not transposed, that are summed into one partial result
constexpr int64_t kPartColumns = 2048;        // and its columns: they stay in the first cache
constexpr int64_t kThreadsFrom = 2 * kGrain;  // elements of b

template <class In, class Out>
struct Product {
  Out* c;
  const In* a;
  const In* b;
  const In* bias;  // may be nullptr
  int64_t n, k, stride;

  // c[i .. i + count), each the dot product of a row of b with a.
  template <int kCount>
  AM_INLINE void dots(int64_t i) const {
    VecF sums[kCount] = {};
    const In* row = b + i * stride;
    for_vectors(0, k, [&](int64_t j, int64_t m) {
      VecF x = load_n(a + j, m);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) sums[r] += load_n(row + r * stride + j, m) * x;
    });
    for (int r = 0; r < kCount; ++r) {
      VecF sum = VecF{} + sum_lanes(sums[r]) + (bias == nullptr ? 0.0f : load_some(bias + i + r, 1)[0]);
      store_some(c + i + r, sum, 1);
    }
  }

  void transposed() const {
    int64_t groups = n / kRows;
#pragma omp parallel if (n * k >= kThreadsFrom)
    {
#pragma omp for schedule(static) nowait
      for (int64_t g = 0; g < groups; ++g) dots<kRows>(g * kRows);
#pragma omp for schedule(static)
      for (int64_t i = groups * kRows; i < n; ++i) dots<1>(i);
    }
  }

  // partial[0 .. count) = the sum over rows [k0, k1) of b of a[row] * b[row][j .. j + count).
  void add_rows(float* partial, int64_t k0, int64_t k1, int64_t j, int64_t count) const {
    for_vectors(0, count, [&](int64_t i, int64_t m) { store_n(partial + i, VecF{}, m); });
    int64_t r = k0;
    for (; r + kRows <= k1; r += kRows) {
      VecF x[kRows];
      for (int i = 0; i < kRows; ++i) x[i] = all(load_some(a + r + i, 1)[0]);
      const In* row = b + r * stride + j;
      for_vectors(0, count, [&](int64_t i, int64_t m) {
        VecF sum = load_n(partial + i, m);
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) sum += load_n(row + q * stride + i, m) * x[q];
        store_n(partial + i, sum, m);
      });
    }
    for (; r < k1; ++r) {
      VecF x = all(load_some(a + r, 1)[0]);
      const In* row = b + r * stride + j;
      for_vectors(0, count, [&](int64_t i, int64_t m) {
        store_n(partial + i, load_n(partial + i, m) + load_n(row + i, m) * x, m);
      });
    }
  }

  void straight() const {
    int64_t parts = (k + kPartRows - 1) / kPartRows, blocks = (n + kPartColumns - 1) / kPartColumns;
    auto* partials =
        static_cast<float*>(scratch(ScratchSlot::kRows, static_cast<size_t>(parts * n + 1) * sizeof(float)));
#pragma omp parallel if (n * k >= kThreadsFrom)
    {
#pragma omp for schedule(static)
      for (int64_t task = 0; task < parts * blocks; ++task) {
        int64_t part = task / blocks, j = task % blocks * kPartColumns;
        int64_t k1 = (part + 1) * kPartRows < k ? (part + 1) * kPartRows : k;
        add_rows(partials + part * n + j, part * kPartRows, k1, j, n - j < kPartColumns ? n - j : kPartColumns);
      }
#pragma omp for schedule(static)
      for (int64_t block = 0; block < blocks; ++block) {
        int64_t j = block * kPartColumns;
        for_vectors(j, n - j < kPartColumns ? n : j + kPartColumns, [&](int64_t i, int64_t m) {
          VecF sum = bias == nullptr ? VecF{} : load_n(bias + i, m);
          for (int64_t part = 0; part < parts; ++part) sum += load_n(partials + part * n + i, m);
          store_n(c + i, sum, m);
        });
      }
    }
  }
};

}  // namespace

void matmul_row(const Tensor& c, const Tensor& a, const Tensor& b, const MatmulArgs& args) {
  with_type(a, [&](auto in) {
    using In = decltype(in);
    with_type(c, [&](auto out) {
      using Out = decltype(out);
      Product<In, Out> product{
          ptr<Out>(c), ptr<In>(a), ptr<In>(b),    args.bias == nullptr ? nullptr : ptr<In>(*args.bias),
          c.cols(),    a.cols(),   b.row_stride()};
      if (args.transpose_b)
        product.transposed();
      else
        product.straight();
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

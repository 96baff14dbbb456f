// The product of one row by a matrix, which generation is made of: every element of b is used once, so nothing is
// packed and all that counts is that b streams from memory. Sums are cut by the shape alone, so the result does not
// depend on the number of threads.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int kChains = 4;                    // as many sums at once as hide an addition
constexpr int64_t kAhead = 3072;              // bytes: what is asked of memory before it is needed
constexpr int kTogether = 4;                  // rows of b, not transposed, that are added at once
constexpr int64_t kPartRows = 64;             // rows of b that are summed into one partial result
constexpr int64_t kPartColumns = 2048;        // and its columns: they stay in the first cache
constexpr int64_t kThreadsFrom = 2 * kGrain;  // elements of b

template <class In, class Out>
struct Product {
  Out* c;
  const In* a;
  const In* b;
  const In* bias;  // may be nullptr
  int64_t n, k, stride;

  // The dot product of a with one row of b, in kChains chains of sums.
  AM_INLINE float dot(const In* row) const {
    VecF sums[kChains] = {};
    int64_t j = 0;
    for (; j + kChains * kLanes <= k; j += kChains * kLanes)
#pragma GCC unroll 4
      for (int q = 0; q < kChains; ++q) {
        __builtin_prefetch(row + j + q * kLanes + kAhead / static_cast<int64_t>(sizeof(In)));
        sums[q] += load(row + j + q * kLanes) * load(a + j + q * kLanes);
      }
    for_vectors(j, k, [&](int64_t i, int64_t m) { sums[0] += load_n(row + i, m) * load_n(a + i, m); });
    return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  // One row of b after the other: as one stream, memory gives the most.
  void transposed() const {
#pragma omp parallel for schedule(static) if (n * k >= kThreadsFrom)
    for (int64_t i = 0; i < n; ++i) {
      float sum = dot(b + i * stride) + (bias == nullptr ? 0.0f : load_some(bias + i, 1)[0]);
      store_some(c + i, all(sum), 1);
    }
  }

  // partial[0 .. count) = the sum over rows [k0, k1) of b of a[row] * b[row][j .. j + count).
  void add_rows(float* partial, int64_t k0, int64_t k1, int64_t j, int64_t count) const {
    for_vectors(0, count, [&](int64_t i, int64_t m) { store_n(partial + i, VecF{}, m); });
    int64_t r = k0;
    for (; r + kTogether <= k1; r += kTogether) {
      VecF x[kTogether];
      for (int i = 0; i < kTogether; ++i) x[i] = all(load_some(a + r + i, 1)[0]);
      const In* row = b + r * stride + j;
      for_vectors(0, count, [&](int64_t i, int64_t m) {
        VecF sum = load_n(partial + i, m);
#pragma GCC unroll 4
        for (int q = 0; q < kTogether; ++q) sum += load_n(row + q * stride + i, m) * x[q];
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

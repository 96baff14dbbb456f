// Sums: over rows (gradients of biases) in fp32, over everything (losses, gradient norms) in fp64.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void sum_rows(const Tensor& out, const Tensor& x, bool accumulate) {
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    const T* from = ptr<T>(x);
    int64_t stride = x.row_stride(), width = out.numel();
    sum_over_rows(x.rows(), width, accumulate, {ptr<float>(out)}, [&](int64_t row, float* partial) {
      for_vectors(0, width, [&](int64_t i, int64_t n) {
        store_n(partial + i, load_n(partial + i, n) + load_n(from + row * stride + i, n), n);
      });
    });
  });
}

namespace {

struct Halves {
  VecD low, high;
};
AM_INLINE Halves to_double(VecF v) {
  VecFHalf part[2];
  std::memcpy(part, &v, sizeof(v));
  return {__builtin_convertvector(part[0], VecD), __builtin_convertvector(part[1], VecD)};
}

AM_INLINE double sum_lanes(VecD v) {
  double sum = 0;
  for (int i = 0; i < kLanes / 2; ++i) sum += v[i];
  return sum;
}

// The sum of term(x) over [begin, end) with four running sums.
template <class T, class Term>
AM_INLINE double sum_block(const T* x, int64_t begin, int64_t end, Term&& term) {
  VecD sums[4] = {};
  int64_t i = begin;
  for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
    Halves a = to_double(load(x + i)), b = to_double(load(x + i + kLanes));
    sums[0] += term(a.low);
    sums[1] += term(a.high);
    sums[2] += term(b.low);
    sums[3] += term(b.high);
  }
  for_vectors(i, end, [&](int64_t at, int64_t n) {
    Halves a = to_double(load_n(x + at, n));
    sums[0] += term(a.low);
    sums[1] += term(a.high);
  });
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class Term>
AM_INLINE void sum_all(const Tensor& out, const Tensor& x, bool accumulate, Term&& term) {
  with_type(x, [&](auto tag) {
    const auto* from = ptr<decltype(tag)>(x);
    sum_of_blocks(ptr<double>(out), x.numel(), accumulate,
                  [&](int64_t begin, int64_t end) { return sum_block(from, begin, end, term); });
  });
}

}  // namespace

void sum_squares(const Tensor& out, const Tensor& x, bool accumulate) {
  sum_all(out, x, accumulate, [](VecD v) { return v * v; });
}

void sum(const Tensor& out, const Tensor& x, bool accumulate) {
  sum_all(out, x, accumulate, [](VecD v) { return v; });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// How kernels walk their data: types chosen at run time, blocks of elements or rows spread over the threads, and sums
// over rows in an order that does not depend on the number of threads.
#pragma once

#include <omp.h>

#include "ops/cpu/scratch.h"
#include "ops/cpu/vec.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

// Work below this many elements is not worth waking other threads.
inline constexpr int64_t kGrain = 16384;

template <class T>
AM_INLINE T* ptr(const Tensor& t) {
  return static_cast<T*>(t.raw());
}

// f(T{}) with T the compute type of a tensor: float or bf16.
template <class F>
AM_INLINE void with_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::kBF16)
    f(bf16{});
  else
    f(float{});
}

// f(i, lanes) for each vector of elements i .. i + lanes of [begin, end).
template <class F>
AM_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) f(i, int64_t{kLanes});
  if (i < end) f(i, end - i);
}

// f(begin, end) for blocks of n elements, in parallel.
template <class F>
AM_INLINE void for_blocks(int64_t n, F&& f) {
  constexpr int64_t kBlock = 4096;
  int64_t blocks = (n + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static) if (n >= kGrain)
  for (int64_t b = 0; b < blocks; ++b) f(b * kBlock, (b + 1) * kBlock < n ? (b + 1) * kBlock : n);
}

// f(row) for each row, in parallel; `width` elements of work a row.
template <class F>
AM_INLINE void for_rows(int64_t rows, int64_t width, F&& f) {
#pragma omp parallel for schedule(static) if (rows * width >= kGrain)
  for (int64_t r = 0; r < rows; ++r) f(r);
}

// outs[k][width] (+)= the sum over the rows of what f(row, partial) adds to partial[k * width ...]; an output may be
// nullptr. Rows are cut into blocks by their number alone; each block has partial sums of its own, added in order.
template <int kOuts, class F>
inline void sum_over_rows(int64_t rows, int64_t width, bool accumulate, float* const (&outs)[kOuts], F&& f) {
  constexpr int64_t kMinBlock = 32, kMaxBlocks = 128;
  int64_t block = (rows + kMaxBlocks - 1) / kMaxBlocks;
  if (block < kMinBlock) block = kMinBlock;
  int64_t blocks = (rows + block - 1) / block, total = kOuts * width;
  auto* partials =
      static_cast<float*>(scratch(ScratchSlot::kRows, static_cast<size_t>(blocks * total + 1) * sizeof(float)));
#pragma omp parallel if (rows * width >= kGrain)
  {
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
      float* partial = partials + b * total;
      for (int64_t i = 0; i < total; ++i) partial[i] = 0;
      int64_t end = (b + 1) * block < rows ? (b + 1) * block : rows;
      for (int64_t r = b * block; r < end; ++r) f(r, partial);
    }
    constexpr int64_t kColumns = 256;
    for (int k = 0; k < kOuts; ++k) {
      float* out = outs[k];
      if (out == nullptr) continue;
#pragma omp for schedule(static)
      for (int64_t c = 0; c < width; c += kColumns)
        for_vectors(c, c + kColumns < width ? c + kColumns : width, [&](int64_t i, int64_t n) {
          VecF sum = accumulate ? load_n(out + i, n) : VecF{};
          for (int64_t b = 0; b < blocks; ++b) sum += load_n(partials + b * total + k * width + i, n);
          store_n(out + i, sum, n);
        });
    }
  }
}

// The same for a sum of n elements in fp64: f(begin, end) is the sum of a block.
template <class F>
inline void sum_of_blocks(double* out, int64_t n, bool accumulate, F&& f) {
  constexpr int64_t kBlock = 16384;
  int64_t blocks = (n + kBlock - 1) / kBlock;
  auto* partials = static_cast<double*>(scratch(ScratchSlot::kRows, static_cast<size_t>(blocks + 1) * sizeof(double)));
#pragma omp parallel for schedule(static) if (n >= 4 * kGrain)
  for (int64_t b = 0; b < blocks; ++b) partials[b] = f(b * kBlock, (b + 1) * kBlock < n ? (b + 1) * kBlock : n);
  double sum = accumulate ? *out : 0.0;
  for (int64_t b = 0; b < blocks; ++b) sum += partials[b];
  *out = sum;
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// The one matrix product of attention, C (+)= A B on tiles that lie in scratch, register-blocked over kRows rows of A
// and up to kMaxColumns vectors of B. A is read one broadcast element at a time, so it may lie in either order without
// being repacked; only B and C have vectors along their rows. Every element of C is one chain of fused products in
// ascending order of depth that starts from its old value, so splitting a product by rows, columns or depth does not
// change its bits, and the gradients may be summed tile by tile in any loop nest that keeps the order of the tiles.
#pragma once

#include "ops/cpu/attention_math.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA::attention {

// Queries, and keys, of a tile.
inline constexpr int kTile = 64;
inline constexpr int kMaxHeadDim = 256;
// Words from row to row of a tile whose rows are head vectors. An odd number of cache lines, so that a column of the
// tile spreads over all sets of the L1 cache.
inline constexpr int kHeadStride = kMaxHeadDim + 16;

// Blocking: the accumulators, one broadcast and the vectors of B fit 32 registers (AVX-512) or 16. Four rows of four
// vectors reach 98 % of the FMA peak on Zen 4, where a broadcast costs as much as a load.
inline constexpr int kRows = 4;
inline constexpr int kMaxColumns = kLanes == 16 ? 4 : 3;

// C begins at 0, at its old value, or at its old value times rescale[column].
enum class Start { kZero, kKeep, kRescale };

struct Product {
  int64_t rows = 0;   // rounded up to kRows: A and C have that many
  int64_t depth = 0;  // words
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  int64_t c_stride = 0;
  const float* rescale = nullptr;
};

// How many of `remaining` columns (vectors) the next block takes.
inline int next_columns(int remaining) {
  if (remaining <= kMaxColumns) return remaining;
  return remaining < 2 * kMaxColumns ? (remaining + 1) / 2 : kMaxColumns;
}

// kColumns vectors of C. Element (row, k) of A is a[row * kRowStep + k * kDepthStep].
template <int kNumbers, int kColumns, int kRowStep, int kDepthStep, int kStrideB, Start kStart>
[[gnu::noinline]] void multiply_columns(const Product& p) {
  float* c = p.c;
  for (int64_t r = 0; r < p.rows; r += kRows, c += kRows * p.c_stride) {
    VecF sum[kRows][kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        if constexpr (kStart == Start::kZero) sum[i][j] = VecF{};
        if constexpr (kStart != Start::kZero) sum[i][j] = load(c + i * p.c_stride + j * kLanes);
        if constexpr (kStart == Start::kRescale) sum[i][j] *= load(p.rescale + j * kLanes);
      }
    const float* a = p.a + r * kRowStep;
    const float* b = p.b;
#pragma GCC unroll 1
    for (int64_t k = p.depth; k > 0; --k, a += kDepthStep, b += kStrideB) {
      VecF row[kColumns];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        VecF x = all(a[i * kRowStep]);
#pragma GCC unroll 8
        for (int j = 0; j < kColumns; ++j) sum[i][j] = multiply_add<kNumbers>(sum[i][j], x, row[j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) store(c + i * p.c_stride + j * kLanes, sum[i][j]);
  }
}

// `columns` <= kMaxColumns vectors of C.
template <int kNumbers, int kRowStep, int kDepthStep, int kStrideB, Start kStart>
inline void multiply(int columns, const Product& p) {
  switch (columns) {
    case 1:
      return multiply_columns<kNumbers, 1, kRowStep, kDepthStep, kStrideB, kStart>(p);
    case 2:
      return multiply_columns<kNumbers, 2, kRowStep, kDepthStep, kStrideB, kStart>(p);
    case 3:
      return multiply_columns<kNumbers, 3, kRowStep, kDepthStep, kStrideB, kStart>(p);
    default:
      return multiply_columns<kNumbers, kMaxColumns, kRowStep, kDepthStep, kStrideB, kStart>(p);
  }
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA::attention

// The inner loop of the matrix product: one tile of kMR x kNR fp32 sums kept in registers over a stretch of K.
//
// Both operands come packed in panels of 32-bit words: kMR rows of a, or kNR columns of b, side by side for each step
// of K. A word is one fp32 number, or, where the processor multiplies bf16 (kPairs), two consecutive bf16 numbers of K.
// So one loop serves both types and differs in one instruction.
#pragma once

#include <array>
#include <utility>

#include "ops/cpu/vec.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

// As many sums as the registers hold beside two vectors of b and one of a.
#if defined(__AVX512F__)
inline constexpr int kMR = 14;
#elif defined(__AVX2__)
inline constexpr int kMR = 6;
#else
inline constexpr int kMR = 4;
#endif
inline constexpr int kNR = 2 * kLanes;

#if defined(__AVX512BF16__)
inline constexpr bool kBf16Products = true;
#else
inline constexpr bool kBf16Products = false;
#endif

template <bool kPairs>
AM_INLINE VecF multiply_add(VecF sum, uint32_t a, VecF b) {
  if constexpr (kPairs) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, bits_as<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))), bits_as<__m512bh>(b));
#endif
  }
  return sum + all(bits_as<float>(a)) * b;
}

// out[i][j] = sum over `words` of a * b, plus add[i][j] unless add is nullptr, for the first kRows rows of a panel.
template <bool kPairs, int kRows>
void tile(int64_t words, const uint32_t* a, const uint32_t* b, float* out, int64_t ld_out, const float* add,
          int64_t ld_add) {
  VecF sums[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    sums[i][0] = sums[i][1] = VecF{};
    __builtin_prefetch(out + i * ld_out, 1);
    __builtin_prefetch(out + i * ld_out + kLanes, 1);
  }
  const auto* b_words = reinterpret_cast<const float*>(b);
  for (int64_t k = 0; k < words; ++k) {
    VecF b0 = load(b_words), b1 = load(b_words + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] = multiply_add<kPairs>(sums[i][0], a[i], b0);
      sums[i][1] = multiply_add<kPairs>(sums[i][1], a[i], b1);
    }
    a += kMR;
    b_words += kNR;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    if (add != nullptr) {
      sums[i][0] += load(add + i * ld_add);
      sums[i][1] += load(add + i * ld_add + kLanes);
    }
    store(out + i * ld_out, sums[i][0]);
    store(out + i * ld_out + kLanes, sums[i][1]);
  }
}

using TileFunction = void (*)(int64_t, const uint32_t*, const uint32_t*, float*, int64_t, const float*, int64_t);

// kTiles<kPairs>[rows - 1] for panels of 1 to kMR rows.
template <bool kPairs, int... kIndex>
constexpr std::array<TileFunction, kMR> tile_functions(std::integer_sequence<int, kIndex...>) {
  return {&tile<kPairs, kIndex + 1>...};
}
template <bool kPairs>
inline constexpr std::array<TileFunction, kMR> kTiles = tile_functions<kPairs>(std::make_integer_sequence<int, kMR>{});

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

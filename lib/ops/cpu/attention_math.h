// What attention needs beyond vec.h: a cheaper exponential without the edges of exp(), a maximum of one instruction,
// and the transposition of a square of lanes.
#pragma once

#include "ops/cpu/vec.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA::attention {

// a > b ? a : b, which is b when either is NaN.
inline VecF larger(VecF a, VecF b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);  // the plain form draws a false warning from GCC 12
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// 2^x for x <= 127: relative error below 1.2e-7 from -126 up, some number below 2.4e-38 under that; NaN stays NaN.
inline VecF exp2(VecF x) {
  const VecF lowest = all(-126.0f);
  const VecF shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
  x = larger(lowest, x);                // the second operand when either is NaN
  VecF shifted = x + shift;
  VecF f = x - (shifted - shift);  // in [-0.5, 0.5]
  // (2^f - 1) / f, interpolated at the Chebyshev nodes; 2^0 is exactly 1.
  VecF p = all(1.54531629e-4f);
  p = p * f + all(1.33908634e-3f);
  p = p * f + all(9.61808256e-3f);
  p = p * f + all(5.55035711e-2f);
  p = p * f + all(2.40226508e-1f);
  p = p * f + all(6.93147188e-1f);
  p = p * f + all(1.0f);
  return bits_as<VecF>(bits_as<VecU>(p) + (bits_as<VecU>(shifted) << 23));
}

// Numbers in a word when the tensors are of type T.
#if defined(__AVX512BF16__)
template <class T>
inline constexpr int kWord = sizeof(T) == 2 ? 2 : 1;
#else
template <class T>
inline constexpr int kWord = 1;
#endif

// sum + the products of the numbers of a and b, lane by lane.
template <int kNumbers>
inline VecF multiply_add(VecF sum, VecF a, VecF b) {
#if defined(__AVX512BF16__)
  if constexpr (kNumbers == 2) return _mm512_dpbf16_ps(sum, bits_as<__m512bh>(a), bits_as<__m512bh>(b));
#endif
  return sum + a * b;
}

#if defined(__AVX512BF16__)
// Words of (first, second), rounded to bf16.
inline VecF words(VecF first, VecF second) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  __m512i both = bits_as<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  return bits_as<VecF>(_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both));
}

// The lanes of x, rounded to bf16, as kLanes / 2 words.
inline void store_words(float* p, VecF x) {
  __m256bh half = _mm512_cvtneps_pbh(x);
  std::memcpy(p, &half, sizeof half);
}
#endif

// rows[i][j] and rows[j][i] change places: swaps the off-diagonal kStep x kStep blocks of every 2 kStep x 2 kStep
// block, then goes on inside them.
template <int kStep = kLanes / 2>
inline void transpose(VecF (&rows)[kLanes]) {
  VecI first{}, second{};
  for (int j = 0; j < kLanes; ++j) {
    first[j] = (j & kStep) == 0 ? j : kLanes + j - kStep;
    second[j] = (j & kStep) == 0 ? j + kStep : kLanes + j;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    VecF a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, first);
    rows[i + kStep] = __builtin_shuffle(a, b, second);
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA::attention

// Vectors of fp32 lanes in the width of the instruction set, on GCC's vector extension, so that one source serves every
// set; loads and stores of f32 and bf16; exp, sigmoid and the normal distribution as polynomials (a few units in the
// last place). bf16 is rounded to nearest even, as to_bf16.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "ops/cpu/isa.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define AM_INLINE __attribute__((always_inline)) inline

namespace automodel::ops::cpu::AUTOMODEL_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));
typedef float VecFHalf __attribute__((vector_size(kLanes * 2)));
typedef double VecD __attribute__((vector_size(kLanes * 4)));  // half as many lanes

// x in every lane. (x - 0 is x for every x, so the compiler drops the subtraction.)
AM_INLINE VecF all(float x) {
  return x - VecF{};
}

template <class To, class From>
AM_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// g++ 12 splits these conversions of a vector in two; the instructions do it at once. (And it warns of the undefined
// vector inside the forms without a mask; a full mask costs nothing.)
AM_INLINE VecU to_words(VecH h) {
#if defined(__AVX512F__)
  return bits_as<VecU>(_mm512_maskz_cvtepu16_epi32(0xffff, bits_as<__m256i>(h)));
#elif defined(__AVX2__)
  return bits_as<VecU>(_mm256_cvtepu16_epi32(bits_as<__m128i>(h)));
#else
  return __builtin_convertvector(h, VecU);
#endif
}

AM_INLINE VecF widen(VecH h) {
  return bits_as<VecF>(to_words(h) << 16);
}

AM_INLINE VecH narrow(VecF x) {
#if defined(__AVX512BF16__)
  return bits_as<VecH>(_mm512_cvtneps_pbh(x));  // numbers below the smallest normal one, 1e-38, become 0
#else
  VecU u = bits_as<VecU>(x);
  VecU rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  VecU quiet = (u >> 16) | 0x40u;
  VecU words = (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
#if defined(__AVX512F__)
  return bits_as<VecH>(_mm512_maskz_cvtepi32_epi16(0xffff, bits_as<__m512i>(words)));
#else
  return __builtin_convertvector(words, VecH);
#endif
#endif
}

AM_INLINE VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
AM_INLINE VecF load(const bf16* p) {
  VecH h;
  std::memcpy(&h, p, sizeof(h));
  return widen(h);
}
AM_INLINE void store(float* p, VecF v) {
  std::memcpy(p, &v, sizeof(v));
}
AM_INLINE void store(bf16* p, VecF v) {
  VecH h = narrow(v);
  std::memcpy(p, &h, sizeof(h));
}

// The first n lanes (0 <= n <= kLanes); the other lanes of a load are `rest`.
template <class T>
AM_INLINE VecF load_some(const T* p, int64_t n, float rest = 0.0f) {
#if defined(__AVX512F__)
  auto mask = static_cast<__mmask16>((1u << n) - 1u);
  if constexpr (sizeof(T) == 4)
    return _mm512_mask_loadu_ps(all(rest), mask, p);
  else
    return _mm512_mask_mov_ps(all(rest), mask, widen(bits_as<VecH>(_mm256_maskz_loadu_epi16(mask, p))));
#else
  VecF v = all(rest);
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(T) == 4)
      v[i] = p[i];
    else
      v[i] = to_float(p[i]);
  }
  return v;
#endif
}
template <class T>
AM_INLINE void store_some(T* p, VecF v, int64_t n) {
#if defined(__AVX512F__)
  auto mask = static_cast<__mmask16>((1u << n) - 1u);
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(p, mask, v);
  else
    _mm256_mask_storeu_epi16(p, mask, bits_as<__m256i>(narrow(v)));
#else
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(T) == 4)
      p[i] = v[i];
    else
      p[i] = to_bf16(v[i]);
  }
#endif
}

// x as it would be read back after a store of type T.
template <class T>
AM_INLINE VecF rounded_to(VecF x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else
    return widen(narrow(x));
}

// The greater; b where either is NaN.
AM_INLINE VecF max(VecF a, VecF b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// Lane i of the result is lane i ^ kDistance of v.
template <int kDistance>
AM_INLINE VecF exchange(VecF v) {
  VecI lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i ^ kDistance;
  return __builtin_shuffle(v, lanes);
}
template <int kDistance = kLanes / 2>
AM_INLINE float sum_lanes(VecF v) {
  if constexpr (kDistance == 0)
    return v[0];
  else
    return sum_lanes<kDistance / 2>(v + exchange<kDistance>(v));
}
template <int kDistance = kLanes / 2>
AM_INLINE float max_lanes(VecF v) {
  if constexpr (kDistance == 0)
    return v[0];
  else
    return max_lanes<kDistance / 2>(max(v, exchange<kDistance>(v)));
}

AM_INLINE VecF sqrt(VecF x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// The first min(count, kLanes) lanes.
template <class T>
AM_INLINE VecF load_n(const T* p, int64_t count, float rest = 0.0f) {
  return count >= kLanes ? load(p) : load_some(p, count, rest);
}
template <class T>
AM_INLINE void store_n(T* p, VecF v, int64_t count) {
  if (count >= kLanes)
    store(p, v);
  else
    store_some(p, v, count);
}

// e^x: x = n ln 2 + r, a polynomial in r, times 2^n. 0 below the smallest normal number, inf above the largest.
AM_INLINE VecF exp(VecF x) {
  constexpr float kLow = -87.33654f, kHigh = 88.72283f;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  VecF c = max(all(kLow), x);            // of the two, max gives x where it is NaN
  c = c > kHigh + 1 ? all(kHigh + 1) : c;
  VecF t = c * 1.44269504f + kMagic;
  VecF n = t - kMagic;
  VecF r = c - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  VecF p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, all(kLow), _CMP_NLT_UQ), p, n);
#else
  VecF y = bits_as<VecF>(bits_as<VecU>(p) + (bits_as<VecU>(t) << 23));
  y = x < kLow ? all(0.0f) : y;
  y = x > kHigh ? all(__builtin_inff()) : y;
  return x == x ? y : x;
#endif
}

AM_INLINE VecF sigmoid(VecF x) {
  return 1.0f / (1.0f + exp(-x));
}

// The standard normal distribution function and its density. With z = |x| / sqrt(2): below 1 by the Taylor-like
// polynomial of erf, above by the asymptotic form exp(-z^2) / z * P(1 / z^2) of erfc (S. Moshier, Cephes library), so
// that the lower tail keeps its relative accuracy.
struct Normal {
  VecF cdf, pdf;
};
AM_INLINE Normal normal(VecF x) {
  VecF z = x * 0.70710678f;
  VecF magnitude = z < 0.0f ? -z : z;
  VecF square = z * z;
  VecF decay = exp(-square);

  VecF small = all(7.853861353153693e-5f);
  small = small * square - 8.010193625184903e-4f;
  small = small * square + 5.188327685732524e-3f;
  small = small * square - 2.685381193529856e-2f;
  small = small * square + 1.128358514861418e-1f;
  small = small * square - 3.761262582423300e-1f;
  small = small * square + 1.128379165726710e+0f;
  small = small * z;

  VecF q = 1.0f / (magnitude < 1.0f ? all(1.0f) : magnitude);
  VecF y = q * q;
  VecF middle = all(2.326819970068386e-2f);
  middle = middle * y - 1.387039388740657e-1f;
  middle = middle * y + 3.687424674597105e-1f;
  middle = middle * y - 5.824733027278666e-1f;
  middle = middle * y + 6.210004621745983e-1f;
  middle = middle * y - 4.944515323274145e-1f;
  middle = middle * y + 3.404879937665872e-1f;
  middle = middle * y - 2.741127028184656e-1f;
  middle = middle * y + 5.638259427386472e-1f;
  VecF far = all(-1.047766399936249e+1f);
  far = far * y + 1.297719955372516e+1f;
  far = far * y - 7.495518717768503e+0f;
  far = far * y + 2.921019019210786e+0f;
  far = far * y - 1.015265279202700e+0f;
  far = far * y + 4.218463358204948e-1f;
  far = far * y - 2.820767439740514e-1f;
  far = far * y + 5.641895067754075e-1f;
  VecF tail = 0.5f * decay * q * (magnitude < 2.0f ? middle : far);  // the smaller of cdf(x) and 1 - cdf(x)

  VecF outer = x < 0.0f ? tail : 1.0f - tail;
  VecF cdf = magnitude < 1.0f ? 0.5f + 0.5f * small : outer;
  return {x == x ? cdf : x, decay * 0.39894228f};
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

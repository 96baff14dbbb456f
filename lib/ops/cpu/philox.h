// Philox4x32-10 (core/rng.h) on vectors, one block a lane, and the masks of dropout (ops::DropoutArgs) made of it.
#pragma once

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

// The 64-bit products of lanes 0, 2, 4, ... of a and b, as words: low, high, low, high, ...
AM_INLINE VecU multiply_even(VecU a, VecU b) {
#if defined(__AVX512F__)
  return bits_as<VecU>(_mm512_maskz_mul_epu32(0xff, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif defined(__AVX2__)
  return bits_as<VecU>(_mm256_mul_epu32(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#elif defined(__SSE2__)
  return bits_as<VecU>(_mm_mul_epu32(bits_as<__m128i>(a), bits_as<__m128i>(b)));
#else
  VecU out;
  for (int i = 0; i < kLanes; i += 2) {
    uint64_t product = uint64_t{a[i]} * b[i];
    out[i] = static_cast<uint32_t>(product);
    out[i + 1] = static_cast<uint32_t>(product >> 32);
  }
  return out;
#endif
}

struct Wide {
  VecU low, high;
};
AM_INLINE Wide multiply_wide(VecU a, uint32_t b) {
  VecU factor = VecU{} + b, odd_lanes{}, low{}, high{};
  for (uint32_t i = 0; i < kLanes; ++i) {
    odd_lanes[i] = i | 1;
    low[i] = i % 2 == 0 ? i : kLanes + i - 1;
    high[i] = i % 2 == 0 ? i + 1 : kLanes + i;
  }
  VecU even = multiply_even(a, factor), odd = multiply_even(__builtin_shuffle(a, odd_lanes), factor);
  return {__builtin_shuffle(even, odd, low), __builtin_shuffle(even, odd, high)};
}

// Replaces the counters by their blocks.
AM_INLINE void philox(VecU (&c)[4], uint64_t key) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    Wide p0 = multiply_wide(c[0], 0xD2511F53u), p1 = multiply_wide(c[2], 0xCD9E8D57u);
    c[0] = p1.high ^ c[1] ^ k0;
    c[1] = p1.low;
    c[2] = p0.high ^ c[3] ^ k1;
    c[3] = p0.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// What a number is multiplied by, from its word.
class Keeper {
 public:
  AM_INLINE explicit Keeper(const DropoutArgs& args) {
    double dropped = static_cast<double>(args.p) * 0x1p32 + 0.5;
    threshold_ = dropped >= 0x1p32 ? 0xffffffffu : static_cast<uint32_t>(dropped);
    factor_ = static_cast<float>(1.0 / (1.0 - static_cast<double>(threshold_) * 0x1p-32));
  }
  AM_INLINE VecF factor(VecU word) const { return word >= threshold_ ? all(factor_) : VecF{}; }

 private:
  uint32_t threshold_;
  float factor_;
};

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

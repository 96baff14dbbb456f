// Register-only loops: eight or more independent accumulators hide the latency of the multiply-add, so the units that
// compute are never idle. Whatever a kernel does besides shows as a share below one.
#include "ops/cpu/peak.h"

#include <omp.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace automodel::ops::cpu {
namespace {

// Runs `rounds` rounds and returns the operations done; the sum of the accumulators goes to `sink`, so nothing is
// dropped.
using Loop = double (*)(int64_t rounds, float* sink);

double plain_loop(int64_t rounds, float* sink) {
  constexpr int kLanes = 64;
  float a[kLanes];
  for (int i = 0; i < kLanes; ++i) a[i] = static_cast<float>(i);
  float x = 1.0f + *sink, y = *sink;
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < kLanes; ++i) a[i] = a[i] * x + y;
  for (float v : a) *sink += v * 0;
  return static_cast<double>(rounds) * kLanes * 2;
}

#if defined(__x86_64__)
constexpr int kChains = 12;

__attribute__((target("avx2,fma"))) double avx2_loop(int64_t rounds, float* sink) {
  __m256 a[kChains], x = _mm256_set1_ps(1.0f + *sink), y = _mm256_set1_ps(*sink);
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_fmadd_ps(a[i], x, y);
  for (const __m256& v : a) *sink += _mm256_cvtss_f32(v) * 0;
  return static_cast<double>(rounds) * kChains * 8 * 2;
}

__attribute__((target("avx512f"))) double avx512_loop(int64_t rounds, float* sink) {
  __m512 a[kChains], x = _mm512_set1_ps(1.0f + *sink), y = _mm512_set1_ps(*sink);
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_fmadd_ps(a[i], x, y);
  for (const __m512& v : a) *sink += _mm512_cvtss_f32(v) * 0;
  return static_cast<double>(rounds) * kChains * 16 * 2;
}

__attribute__((target("avx512f,avx512bf16"))) double bf16_loop(int64_t rounds, float* sink) {
  __m512 a[kChains];
  __m512 one = _mm512_set1_ps(*sink);
  __m512bh x = _mm512_cvtne2ps_pbh(one, one), y = x;
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_dpbf16_ps(a[i], x, y);
  for (const __m512& v : a) *sink += _mm512_cvtss_f32(v) * 0;
  return static_cast<double>(rounds) * kChains * 16 * 4;
}
#endif

Loop best_loop(DType dtype) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (dtype == DType::kBF16 && __builtin_cpu_supports("avx512bf16")) return bf16_loop;
  if (__builtin_cpu_supports("avx512f")) return avx512_loop;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_loop;
#endif
  (void)dtype;
  return plain_loop;
}

}  // namespace

double peak_flops(DType dtype, double seconds) {
  using Clock = std::chrono::steady_clock;
  Loop loop = best_loop(dtype);
  double rate = 0;
#pragma omp parallel reduction(+ : rate)
  {
    float sink = 0;
    double operations = 0;
    auto start = Clock::now();
    std::chrono::duration<double> passed{};
    do {
      operations += loop(20000, &sink);
      passed = Clock::now() - start;
    } while (passed.count() < seconds);
    rate += operations / passed.count() + static_cast<double>(sink) * 0;
  }
  return rate;
}

}  // namespace automodel::ops::cpu

// Philox4x32-10 (core/rng.h) in a kernel, and what it makes of dropout (ops::DropoutArgs).
#pragma once

#include "ops/cuda/kernel.h"

namespace automodel::ops::cuda {

struct Words {
  uint32_t w[4];
};

AM_DEVICE Words philox(Words c, uint64_t key) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    constexpr uint32_t kA = 0xD2511F53u, kB = 0xCD9E8D57u;
    uint32_t high0 = __umulhi(kA, c.w[0]), low0 = kA * c.w[0];
    uint32_t high1 = __umulhi(kB, c.w[2]), low1 = kB * c.w[2];
    c = {{high1 ^ c.w[1] ^ k0, low1, high0 ^ c.w[3] ^ k1, low0}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// What a number is multiplied by, from its word. Made on the host.
struct Keeper {
  uint32_t threshold = 0;
  float kept = 1;
  uint64_t key = 0;

  Keeper() = default;
  explicit Keeper(const DropoutArgs& args) : key(args.key) {
    double dropped = static_cast<double>(args.p) * 0x1p32 + 0.5;
    threshold = dropped >= 0x1p32 ? 0xffffffffu : static_cast<uint32_t>(dropped);
    kept = static_cast<float>(1.0 / (1.0 - static_cast<double>(threshold) * 0x1p-32));
  }
  AM_DEVICE float factor(uint32_t word) const { return word >= threshold ? kept : 0.0f; }
};

}  // namespace automodel::ops::cuda

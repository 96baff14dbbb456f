// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// A number is a function of (seed, stream, element) and of nothing else, so any rank can compute any element of any
// parameter or dropout mask without state.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace automodel {

// One Philox4x32-10 block. Matches the published known-answer vectors.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// FNV-1a, 64 bit: turns a stream's name (a parameter's name, "shuffle", ...) into a number. Stable for all time.
uint64_t hash_name(std::string_view name);

class Random {
 public:
  // `stream` separates independent uses of one seed; build it with hash_name.
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  Random(uint64_t seed, std::string_view stream) : Random(seed, hash_name(stream)) {}

  uint32_t bits(uint64_t element) const;
  uint64_t bits64(uint64_t element) const;
  // Uniform in [0, 1): 24 bits for float, 53 for double.
  float uniform(uint64_t element) const;
  double uniform64(uint64_t element) const;
  // Standard normal (Box-Muller on two 32-bit words of the element's own block).
  float normal(uint64_t element) const;
  // Uniform in [0, bound); bias below 2^-32 relative (128-bit multiply).
  uint64_t below(uint64_t bound, uint64_t element) const;

 private:
  std::array<uint32_t, 4> block(uint64_t element) const;

  uint64_t seed_;
  uint64_t stream_;
};

// A permutation of 0..n-1 that depends on (seed, stream) alone (Fisher-Yates).
std::vector<int64_t> permutation(int64_t n, const Random& random);

}  // namespace automodel

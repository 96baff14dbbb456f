#include "core/rng.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace automodel {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

std::array<uint32_t, 4> Random::block(uint64_t element) const {
  return philox({static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32), static_cast<uint32_t>(stream_),
                 static_cast<uint32_t>(stream_ >> 32)},
                {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
}

uint32_t Random::bits(uint64_t element) const {
  return block(element)[0];
}

uint64_t Random::bits64(uint64_t element) const {
  auto b = block(element);
  return (uint64_t{b[1]} << 32) | b[0];
}

float Random::uniform(uint64_t element) const {
  return static_cast<float>(bits(element) >> 8) * 0x1p-24f;
}

double Random::uniform64(uint64_t element) const {
  return static_cast<double>(bits64(element) >> 11) * 0x1p-53;
}

float Random::normal(uint64_t element) const {
  auto b = block(element);
  // (0, 1] keeps the logarithm finite.
  double u = (static_cast<double>(b[0]) + 1.0) * 0x1p-32;
  double v = static_cast<double>(b[1]) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

uint64_t Random::below(uint64_t bound, uint64_t element) const {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits64(element)) * bound) >> 64);
}

std::vector<int64_t> permutation(int64_t n, const Random& random) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) {
    auto j = random.below(static_cast<uint64_t>(i) + 1, static_cast<uint64_t>(i));
    std::swap(order[static_cast<size_t>(i)], order[j]);
  }
  return order;
}

}  // namespace automodel

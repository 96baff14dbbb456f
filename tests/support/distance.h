// How far apart two lists of numbers are, relative to the second.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace automodel::test {

// |a - b| / |b| in the 2-norm.
template <class T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 1e-12;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

}  // namespace automodel::test

// A half-open range of indices.
#pragma once

#include <cstdint>

namespace automodel {

struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Interval&) const = default;
};

}  // namespace automodel

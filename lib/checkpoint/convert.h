// Converts runs of numbers between memory and files. Floating types convert into each other (through fp32 unless both
// are fp64; rounding to nearest even); every other type only into itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace automodel::checkpoint {

bool convertible(DType from, DType to);

// Places of elements: the i-th lies `i * stride` elements after `data`. Addresses may be unaligned.
struct ConstElements {
  const std::byte* data;
  DType dtype;
  int64_t stride = 1;
};
struct Elements {
  std::byte* data;
  DType dtype;
  int64_t stride = 1;
};

// The dtypes must be convertible.
void convert(ConstElements from, Elements to, int64_t count);

}  // namespace automodel::checkpoint

// What the emulated BLAS was asked.
#pragma once

#include <cstdint>

namespace automodel::emulator {

struct BlasCounts {
  int searches = 0;  // for algorithms
  int products = 0;
  uint64_t algorithm = 0;  // of the last product; 3 is the fastest
  uint32_t alignment = 0;  // in bytes, of the first factor in the last search
};
BlasCounts& blas_counts();

}  // namespace automodel::emulator

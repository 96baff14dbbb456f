// Sums over rows in two passes: blocks of a kernel write partial sums, add_partials() adds these in their order.
#pragma once

#include <cstdint>

namespace automodel::ops::cuda {

// How many partial sums a sum over `rows` rows is cut into. A function of the rows and the device alone.
int64_t partial_count(int64_t rows);

// out [width] (+)= sum over the `count` rows of partials, which lie `stride` elements apart.
void add_partials(float* out, const float* partials, int64_t count, int64_t width, int64_t stride, bool accumulate);

}  // namespace automodel::ops::cuda

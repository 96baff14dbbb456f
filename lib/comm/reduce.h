// The local half of a reduction: the sum (maximum, minimum) of the ranks' contributions in the canonical order of
// comm/communicator.h.
#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace automodel::comm {

// out[i] = tree over k of inputs[k][i] for `count` elements; `inputs` are in rank order. `out` may be one of the
// inputs; otherwise nothing overlaps. Large buffers are shared among the OpenMP threads, which does not change a bit.
void tree_reduce(void* out, std::span<const void* const> inputs, int64_t count, DType dtype, Reduce op);

}  // namespace automodel::comm

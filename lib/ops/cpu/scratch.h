// Working memory of the kernels: blocks that belong to the calling thread and are kept for its next call, so that a
// kernel in the steady state allocates nothing. The content is unspecified at every call.
#pragma once

#include <cstddef>

namespace automodel::ops::cpu {

enum class ScratchSlot { kMatmulA, kMatmulB, kMatmulSums, kRows, kAttention, kCount };

// At least `bytes` bytes, aligned to 2 MiB pages when large and to 64 bytes always, valid until the next call of this
// thread with the same slot, or its end. Throws std::bad_alloc.
void* scratch(ScratchSlot slot, size_t bytes);

}  // namespace automodel::ops::cpu

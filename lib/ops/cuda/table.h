// The kernels of the CUDA backend by the names of the table, on the stream of the calling thread (cuda/runtime.h).
// Nothing waits for the device; tensors are device memory.
#pragma once

#include "ops/kernels.h"

namespace automodel::ops::cuda {

#define AUTOMODEL_KERNEL(name, arguments) void name arguments;
AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL

const Kernels& table();

}  // namespace automodel::ops::cuda

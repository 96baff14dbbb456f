#pragma once

#include "ops/kernels.h"

namespace automodel::cuda {

// Null: the plugin was built without kernels.
const ops::Kernels* kernel_table();
// The calling thread's kernels run on this stream (a cudaStream_t) from now on; nullptr: none of ours.
void use_stream(void* stream);

}  // namespace automodel::cuda

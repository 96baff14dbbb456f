#include "cuda/plugin/kernels.h"

#include "ops/cuda/runtime.h"
#include "ops/cuda/table.h"

namespace automodel::cuda {

const ops::Kernels* kernel_table() {
  return &ops::cuda::table();
}

void use_stream(void* stream) {
  ops::cuda::use_stream(stream);
}

}  // namespace automodel::cuda

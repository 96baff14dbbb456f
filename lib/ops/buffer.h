// Tensors as communicators take them.
#pragma once

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace automodel::ops {

// `tensor` is contiguous and outlives the operation.
inline comm::Buffer buffer_of(const Tensor& tensor) {
  return {tensor.raw(), tensor.numel(), tensor.dtype(), tensor.device()};
}

}  // namespace automodel::ops

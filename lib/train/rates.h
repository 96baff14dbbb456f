// How fast a device is at the two things that steps are made of.
#pragma once

#include "core/dtype.h"
#include "tensor/allocator.h"

namespace automodel::train {

// Of a large matrix product; f32 or bf16.
double matmul_gflops(DType dtype, Allocator& allocator);
// Read and written bytes of a large copy in its memory, in GB/s.
double copy_rate(Allocator& allocator);

// Between the host and the device, in GB/s.
struct TransferRates {
  double upload = 0;
  double download = 0;
};
// Of an allocator that has a host (Allocator::make_host_allocator).
TransferRates transfer_rates(Allocator& allocator);

}  // namespace automodel::train

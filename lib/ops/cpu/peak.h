// What this machine's cores can do at most, measured: the yardstick for throughput.
#pragma once

#include "core/dtype.h"

namespace automodel::ops::cpu {

// Floating-point operations per second of as many OpenMP threads as a kernel here would use, from a loop of independent
// fused multiply-adds in registers (bf16: dot products of pairs where the processor has them, else the fp32 loop).
// Takes about `seconds`.
double peak_flops(DType dtype, double seconds);

}  // namespace automodel::ops::cpu

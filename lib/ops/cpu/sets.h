// The instruction sets that this build has kernels for, for cpu::table() and for tests that hold each of them to
// account.
#pragma once

#include <string_view>
#include <vector>

#include "ops/kernels.h"

namespace automodel::ops::cpu {

struct KernelSet {
  std::string_view name;  // "base", "v3", "v4", "v4bf16"
  const Kernels* kernels;
};

// Those that this processor can run, slowest first; never empty.
std::vector<KernelSet> runnable_sets();

}  // namespace automodel::ops::cpu

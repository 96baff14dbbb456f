// The table of one instruction set.
#include "ops/cpu/isa.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

const Kernels& table() {
  static constexpr Kernels kTable{
#define AUTOMODEL_KERNEL(name, arguments) .name = &name,
      AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL
  };
  return kTable;
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

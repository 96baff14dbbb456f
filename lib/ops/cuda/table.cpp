#include "ops/cuda/table.h"

namespace automodel::ops::cuda {

const Kernels& table() {
  static constexpr Kernels kTable{
#define AUTOMODEL_KERNEL(name, arguments) .name = name,
      AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL
  };
  return kTable;
}

}  // namespace automodel::ops::cuda

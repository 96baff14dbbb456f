#include "ops/kernels.h"

namespace automodel::ops::meta {
namespace {

template <class... Args>
void nothing(Args...) {}

}  // namespace

const Kernels& table() {
  static constexpr Kernels kTable{
#define AUTOMODEL_KERNEL(name, arguments) .name = &nothing,
      AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL
  };
  return kTable;
}

}  // namespace automodel::ops::meta

#include "ops/kernels.h"

#include "core/error.h"

namespace automodel::ops {

const Kernels& kernels(Device device) {
  switch (device.kind) {
    case Device::Kind::kCpu:
      return cpu::table();
    case Device::Kind::kMeta:
      return meta::table();
    case Device::Kind::kCuda:
      break;
  }
  fail(Fault::kDevice, "{}:{}: this build has no kernels for this device; use device: cpu", name_of(device),
       device.index);
}

}  // namespace automodel::ops

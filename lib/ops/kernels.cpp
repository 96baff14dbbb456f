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

HeadColumns fused_columns(const Tensor& qkv, const HeadLayout& layout) {
  int64_t q = layout.heads * layout.head_dim, kv = layout.kv_heads * layout.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

}  // namespace automodel::ops

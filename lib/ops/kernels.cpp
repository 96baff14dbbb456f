#include "ops/kernels.h"

#include <atomic>

#include "core/error.h"

namespace automodel::ops {
namespace {

std::atomic<const Kernels*>& cuda_table() {
  static std::atomic<const Kernels*> table{nullptr};
  return table;
}

}  // namespace

void set_cuda_kernels(const Kernels* table) {
  cuda_table() = table;
}

const Kernels& kernels(Device device) {
  switch (device.kind) {
    case Device::Kind::kCpu:
      return cpu::table();
    case Device::Kind::kMeta:
      return meta::table();
    case Device::Kind::kCuda:
      if (const Kernels* table = cuda_table()) return *table;
      break;
  }
  fail(Fault::kDevice, "{}:{}: no backend for this device was opened; use device: cpu", name_of(device), device.index);
}

HeadColumns fused_columns(const Tensor& qkv, const HeadLayout& layout) {
  int64_t q = layout.heads * layout.head_dim, kv = layout.kv_heads * layout.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

}  // namespace automodel::ops

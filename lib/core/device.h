// Where a tensor lives. `meta` has no memory at all: shapes and sizes only (planning). The host reads and writes memory
// of `cpu` alone.
#pragma once

namespace automodel {

struct Device {
  enum class Kind { kCpu, kCuda, kMeta };
  Kind kind = Kind::kCpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::kCpu; }
  bool is_cuda() const { return kind == Kind::kCuda; }
  bool is_meta() const { return kind == Kind::kMeta; }
  bool operator==(const Device&) const = default;
};

inline const char* name_of(Device device) {
  switch (device.kind) {
    case Device::Kind::kCpu:
      return "cpu";
    case Device::Kind::kCuda:
      return "cuda";
    case Device::Kind::kMeta:
      return "meta";
  }
  return "?";
}

}  // namespace automodel

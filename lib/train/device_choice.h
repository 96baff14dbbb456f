#pragma once

#include "config/schema.h"

namespace automodel::train {

// `device:` what to compute on. `auto`: cuda where it can be used, else the CPU.
enum class DeviceChoice { kAuto, kCpu, kCuda };
void describe(config::Names<DeviceChoice>&);

// `dist_env.device_transport:` what the memory of devices travels by. `auto`: nccl where every rank has a device of its
// own and can use NCCL, else staged.
enum class DeviceTransport { kAuto, kNccl, kStaged };
void describe(config::Names<DeviceTransport>&);

}  // namespace automodel::train

#pragma once

#include "config/schema.h"

namespace automodel::train {

// `device:` what to compute on. `auto`: cuda where it can be used, else the CPU.
enum class DeviceChoice { kAuto, kCpu, kCuda };
void describe(config::Names<DeviceChoice>&);

}  // namespace automodel::train

// The memory of an allocator's device as staged communicators reach it (comm/staged.h).
#pragma once

#include <memory>

#include "comm/staged.h"
#include "tensor/allocator.h"

namespace automodel::ops {

// `allocator` outlives the result.
std::unique_ptr<comm::DeviceMemory> make_device_memory(Allocator& allocator);

}  // namespace automodel::ops

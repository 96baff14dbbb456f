// Memory of one CUDA device, and a stream that its work runs on in the order it was asked for. Memory that is given
// back is used again at once: what still reads it was asked for before what writes it anew. Part of the plugin.
#pragma once

#include <memory>

#include "tensor/allocator.h"

namespace automodel::cuda {

class DeviceAllocator : public Allocator {
 public:
  virtual void* stream() const = 0;  // a cudaStream_t
};

// Makes the device the calling thread's; used and destroyed on that thread. Throws Error(kDevice).
std::unique_ptr<DeviceAllocator> make_device_allocator(int index);

}  // namespace automodel::cuda

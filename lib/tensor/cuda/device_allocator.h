// Memory of one CUDA device, and a stream that its work runs on in the order it was asked for. Memory that is given
// back is used again at once: what still reads it was asked for before what writes it anew. Part of the plugin.
#pragma once

#include <memory>

#include "tensor/allocator.h"

namespace automodel::cuda {

// Told the stream (a cudaStream_t) when it is there, and nullptr before it goes.
using UseStream = void (*)(void* stream);

// Makes the device the calling thread's; used and destroyed on that thread. Throws Error(kDevice).
std::unique_ptr<Allocator> make_device_allocator(int index, UseStream use_stream);

}  // namespace automodel::cuda

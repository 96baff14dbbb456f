// What the kernels of one thread of the program work with: a stream of its current device, and working memory there.
// A thread is a rank: its kernels run in order on one stream, so that working memory is free again for the next kernel
// that asks, and nothing here waits for the device.
#pragma once

#include <cstddef>

namespace automodel::ops::cuda {

// The stream (a cudaStream_t of the thread's current device) on which the calling thread's kernels run from now on;
// before the first call it is the thread's default stream.
void use_stream(void* stream);
void* stream();

// At least `bytes` bytes of device memory, aligned to 256, for kernels that the calling thread launches before it asks
// again; the content is unspecified. Grows in the order of the stream. Throws Error(kDevice).
void* scratch(size_t bytes);

// Of the thread's current device: its multiprocessors, and the most shared memory of a block in bytes.
int multiprocessors();
size_t most_shared_memory();

// Device memory, in the order of the stream.
void set_zero(void* data, size_t bytes);

// Throws Error(kDevice) when the last launch failed.
void check_launch();
// Lets blocks of a kernel have `bytes` of shared memory, beyond the 48 KiB that need no asking.
void allow_shared_memory(const void* kernel, size_t bytes);

}  // namespace automodel::ops::cuda

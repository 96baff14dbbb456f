// A device that the host cannot touch: it calls itself cuda, its memory is of pages that nobody may read or write
// except while one of its own kernels or copies runs, and its kernels are the CPU's. A program that trains on it
// without being killed does not touch device memory from the host, and gets the CPU's bits.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda/plugin.h"
#include "tensor/allocator.h"

namespace automodel::test {

// Memory of device `index`. New memory holds numbers that are NaN.
std::unique_ptr<Allocator> make_guarded_allocator(int index = 0);
// What other parts of a device do with its memory, at any time, on any thread.
void read_guarded(void* host, const void* device, size_t bytes);
void write_guarded(void* device, const void* host, size_t bytes);
// The kernels of the device; an argument that is not in memory of such devices is Error(kBug).
const ops::Kernels& guarded_kernels();
// From now on they do what these do; at first those of the CPU. For tests of one thread.
void guard(const ops::Kernels& kernels);
// A plugin with two such devices, without NCCL.
const cuda::Plugin& guarded_plugin();

}  // namespace automodel::test

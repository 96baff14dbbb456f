// The link of comm/device_link.h over NCCL. Part of the plugin.
//
// Communicators are made without blocking (ncclConfig_t::blocking = 0), so every call may go on in NCCL's own threads;
// settled() asks how it went. Facts: the NCCL user guide, "Creating a communicator with options", "Fault tolerance".
#pragma once

#include <memory>
#include <string>

#include "comm/device_link.h"

namespace automodel::cuda {

// For the calling thread's rank, whose kernels run on `compute_stream` (a cudaStream_t of cuda:`device`, which outlives
// the link and all that is made from it). Null, with a clause that says why, where NCCL cannot be used.
std::unique_ptr<comm::DeviceLink> make_nccl_link(int device, void* compute_stream, std::string& why_not);

}  // namespace automodel::cuda

// A communicator for device memory on top of one for host memory: buffers of the device are copied to the host, travel
// as the host's, and are copied back. Slower than talking from device to device, but it needs nothing but the host's
// messages, so several ranks can share one device, and sums have the bits that they have on the host.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace automodel::comm {

// How the memory of one device is reached.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual Device device() const = 0;
  // Host memory that the device copies fast, 64-byte aligned.
  virtual void* take(int64_t bytes) = 0;
  virtual void give_back(void* host, int64_t bytes) noexcept = 0;
  // After all work that the device was given before. Both return when the host memory may be used.
  virtual void download(void* host, const void* device, int64_t bytes) = 0;
  virtual void upload(void* device, const void* host, int64_t bytes) = 0;
};

// Buffers of memory.device() are staged, all others are handed to `host` as they are. What is received is in the device
// memory after wait(). The communicators made from the result are staged too. `memory` outlives all of their
// operations.
std::unique_ptr<Communicator> make_staged(std::unique_ptr<Communicator> host, DeviceMemory& memory);
// `host` outlives the result.
std::unique_ptr<Communicator> make_staged(Communicator& host, DeviceMemory& memory);

}  // namespace automodel::comm

// What lies between the program and libautomodel_cuda.so: one entry that returns one table. The two are built from the
// same sources by the same compiler, so C++ types pass; the version refuses everything else before they do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/device_link.h"
#include "ops/kernels.h"
#include "tensor/allocator.h"

namespace automodel::cuda {

// Raised with every change of this file, of ops/kernels.h, and of the classes that pass (Tensor, Allocator, DeviceLink,
// Error).
inline constexpr uint32_t kPluginVersion = 2;
inline constexpr const char* kPluginFile = "libautomodel_cuda.so";
inline constexpr const char* kPluginEntry = "automodel_cuda_plugin";

struct DeviceInfo {
  std::string name;
  std::string id;  // differs from those of all other devices, whatever the machine and the process
  int major = 0;   // of its compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

struct LibraryVersion {
  std::string name;
  std::string version;  // empty: not found
};

struct Plugin {
  uint32_t version = kPluginVersion;  // stays the first member
  const char* program_version = "";   // of automodel, for which it was built
  // The devices that can be used; 0: `why_none` becomes a clause that says why ("the driver ...").
  int (*count_devices)(std::string& why_none) = nullptr;
  // Throw Error(kDevice).
  DeviceInfo (*describe_device)(int index) = nullptr;
  // Memory of a device, whose work runs in the order it was asked for, on a stream of the allocator's own. From then on
  // the calling thread is a rank of that device: its kernels run on that stream. The allocator is used and destroyed on
  // that thread.
  std::unique_ptr<Allocator> (*make_allocator)(int index) = nullptr;
  const ops::Kernels* (*kernels)() = nullptr;
  // For the rank of the calling thread, whose allocator is of the same device and outlives the link. Null where NCCL
  // cannot be used: `why_not` becomes a clause that says why.
  std::unique_ptr<comm::DeviceLink> (*make_link)(int index, std::string& why_not) = nullptr;
  // Driver and libraries, whether or not there is a device.
  std::vector<LibraryVersion> (*find_libraries)() = nullptr;
};

extern "C" using PluginEntry = const Plugin * (*)();

}  // namespace automodel::cuda

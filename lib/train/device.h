// What a rank computes on, from what the recipe or the command line asks for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "comm/device_link.h"
#include "comm/staged.h"
#include "comm/world.h"
#include "tensor/allocator.h"
#include "train/device_choice.h"

namespace automodel::train {

// What a job computes on that is started on this machine.
Device::Kind device_here(DeviceChoice wanted);

// Error(kDevice) when `cuda` is asked for and cannot be used on this machine, with the reason.
void check_device(DeviceChoice wanted);

// What is free of the memory of the device that this rank will take, shared with the other ranks of the machine that
// will take it too; nothing on the CPU.
std::optional<int64_t> free_device_bytes(DeviceChoice wanted, const comm::World& world);

class RankDevice {
 public:
  // `auto` is cuda where its backend can be used, else the CPU, which the main rank says in the log with the reason.
  // The ranks of a machine take its devices in turn. `world` outlives the object, which belongs to the calling thread.
  // Collective, as all ranks see whether they can talk from device to device; the main rank logs what they do.
  // Throws as check_device, and Error(kDevice) on every rank where `transport` is nccl and some rank cannot use it.
  RankDevice(DeviceChoice wanted, comm::World& world, DeviceTransport transport = DeviceTransport::kAuto);

  Device device() const { return allocator_->device(); }
  Allocator& allocator() const { return *allocator_; }
  // All ranks of the world; memory of the device can be sent.
  comm::Communicator& ranks() const { return linked_ ? *linked_ : staged_ ? *staged_ : world_.global(); }
  // What memory of the device travels by; never kAuto.
  DeviceTransport transport() const { return linked_ ? DeviceTransport::kNccl : DeviceTransport::kStaged; }
  // Error(kDevice) on every rank unless all compute on one kind of device. Collective.
  void check_all_alike() const;

 private:
  void take_device(DeviceChoice wanted);
  void connect(DeviceTransport transport);

  comm::World& world_;
  std::unique_ptr<Allocator> allocator_;
  // On a device: messages go by way of the host,
  std::unique_ptr<comm::DeviceMemory> memory_;
  std::unique_ptr<comm::Communicator> staged_;
  // or, where it can be, from device to device.
  std::unique_ptr<comm::DeviceLink> link_;
  std::unique_ptr<comm::Communicator> linked_;
};

}  // namespace automodel::train

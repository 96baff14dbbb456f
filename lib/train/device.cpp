#include "train/device.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "cuda/backend.h"
#include "ops/device_memory.h"

namespace automodel::train {

void describe(config::Names<DeviceChoice>& n) {
  n("auto", DeviceChoice::kAuto, "cuda where it can be used, else the CPU")("cpu", DeviceChoice::kCpu);
  n("cuda", DeviceChoice::kCuda, "one device for each rank of a machine, in turn");
}

Device::Kind device_here(DeviceChoice wanted) {
  bool cuda = wanted == DeviceChoice::kCuda || (wanted == DeviceChoice::kAuto && cuda::backend().usable());
  return cuda ? Device::Kind::kCuda : Device::Kind::kCpu;
}

void check_device(DeviceChoice wanted) {
  if (wanted != DeviceChoice::kCuda || cuda::backend().usable()) return;
  fail(Fault::kDevice, "device: cuda cannot be used here: {}; or write device: cpu", cuda::backend().why_not);
}

std::optional<int64_t> free_device_bytes(DeviceChoice wanted, const comm::World& world) {
  if (device_here(wanted) == Device::Kind::kCpu || !cuda::backend().usable()) return std::nullopt;
  int devices = cuda::backend().devices, index = world.local_rank() % devices;
  int sharing = (world.local_size() - index + devices - 1) / devices;
  return cuda::backend().plugin->describe_device(index).free_bytes / std::max(1, sharing);
}

RankDevice::RankDevice(DeviceChoice wanted, comm::World& world) : world_(world) {
  check_device(wanted);
  if (wanted == DeviceChoice::kCpu || !cuda::backend().usable()) {
    if (wanted == DeviceChoice::kAuto && world.is_main())
      log::info("device: cpu, as cuda cannot be used here: {}", cuda::backend().why_not);
    allocator_ = make_cpu_allocator();
    return;
  }
  const cuda::Backend& backend = cuda::backend();
  int index = world.local_rank() % backend.devices;
  allocator_ = backend.plugin->make_allocator(index);
  memory_ = ops::make_device_memory(*allocator_);
  staged_ = comm::make_staged(world.global(), *memory_);
  if (!world.is_main()) return;
  cuda::DeviceInfo info = backend.plugin->describe_device(index);
  log::info("device: cuda:{} ({}, {} GiB), {} on this machine", index, info.name, info.total_bytes >> 30,
            backend.devices);
}

void RankDevice::check_all_alike() const {
  int32_t mine = device().is_cuda() ? 1 : 0;
  int32_t most = world_.global().reduced(mine, comm::Reduce::kMax);
  int32_t least = world_.global().reduced(mine, comm::Reduce::kMin);
  AM_CHECK(
      most == least, Fault::kDevice,
      "device: some ranks compute on cuda and others, as it cannot be used there, on the CPU{}; write device: cpu, "
      "or mend those machines (automodel doctor tells more)",
      mine == 1 ? "" : " (rank " + std::to_string(world_.rank()) + ": " + cuda::backend().why_not + ")");
}

}  // namespace automodel::train

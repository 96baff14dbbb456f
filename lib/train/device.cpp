#include "train/device.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "comm/device_ranks.h"
#include "core/error.h"
#include "core/log.h"
#include "cuda/backend.h"
#include "ops/device_memory.h"

namespace automodel::train {

void describe(config::Names<DeviceChoice>& n) {
  n("auto", DeviceChoice::kAuto, "cuda where it can be used, else the CPU")("cpu", DeviceChoice::kCpu);
  n("cuda", DeviceChoice::kCuda, "one device for each rank of a machine, in turn");
}

void describe(config::Names<DeviceTransport>& n) {
  n("auto", DeviceTransport::kAuto, "nccl where every rank has a GPU of its own, else staged")(
      "nccl", DeviceTransport::kNccl, "from GPU to GPU")(
      "staged", DeviceTransport::kStaged, "by way of the host; sums have the bits that they have on CPUs");
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

RankDevice::RankDevice(DeviceChoice wanted, comm::World& world, DeviceTransport transport) : world_(world) {
  check_device(wanted);
  take_device(wanted);
  connect(transport);
}

void RankDevice::take_device(DeviceChoice wanted) {
  if (wanted == DeviceChoice::kCpu || !cuda::backend().usable()) {
    if (wanted == DeviceChoice::kAuto && world_.is_main())
      log::info("device: cpu, as cuda cannot be used here: {}", cuda::backend().why_not);
    allocator_ = make_cpu_allocator();
    return;
  }
  const cuda::Backend& backend = cuda::backend();
  int index = world_.local_rank() % backend.devices;
  allocator_ = backend.plugin->make_allocator(index);
  memory_ = ops::make_device_memory(*allocator_);
  staged_ = comm::make_staged(world_.global(), *memory_);
  if (!world_.is_main()) return;
  cuda::DeviceInfo info = backend.plugin->describe_device(index);
  log::info("device: cuda:{} ({}, {} GiB), {} on this machine", index, info.name, info.total_bytes >> 30,
            backend.devices);
}

namespace {

// What each rank says of itself.
struct Say {
  int64_t device = 0;  // a number of its own for each device; 0: the rank computes on the CPU
  int64_t linked = 0;  // it can talk to other devices
};

// A clause that says why ranks do not talk from device to device; "" when they can.
std::string why_not_linked(const std::vector<Say>& all, DeviceTransport transport) {
  std::set<int64_t> devices;
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].device == 0) return fmt::format("rank {} computes on the CPU", r);
    if (all[r].linked == 0) return fmt::format("rank {} cannot use it", r);
    if (!devices.insert(all[r].device).second && transport == DeviceTransport::kAuto)
      return fmt::format("rank {} shares its GPU with another", r);
  }
  return "";
}

}  // namespace

void RankDevice::connect(DeviceTransport transport) {
  const int ranks = world_.size();
  if (ranks == 1) return;
  Say mine;
  std::string why_not;
  if (device().is_cuda()) {
    const cuda::Plugin& plugin = *cuda::backend().plugin;
    mine.device = static_cast<int64_t>(std::hash<std::string>()(plugin.describe_device(device().index).id) | 1);
    if (transport != DeviceTransport::kStaged) link_ = plugin.make_link(device().index, why_not);
    mine.linked = link_ ? 1 : 0;
  }
  std::vector<Say> all(static_cast<size_t>(ranks));
  world_.global().all_gather({all.data(), 2 * ranks, DType::kI64}, {&mine, 2, DType::kI64});
  // The same on all ranks from here on, but for why this one cannot.
  std::string reason = why_not_linked(all, transport);
  const bool some = std::ranges::any_of(all, [](const Say& say) { return say.device != 0; });
  if (!some || transport == DeviceTransport::kStaged) return;
  if (!reason.empty()) {
    if (!why_not.empty()) reason += fmt::format(" (rank {}: {})", world_.rank(), why_not);
    AM_CHECK(transport != DeviceTransport::kNccl, Fault::kDevice,
             "dist_env.device_transport: nccl cannot be used: {}; write auto or staged, or mend that", reason);
    if (world_.is_main()) log::info("ranks exchange GPU memory by way of the host, not NCCL: {}", reason);
    link_.reset();
    return;
  }
  linked_ = comm::make_device_ranks(*staged_, *link_, {.deadline = world_.deadline(), .place = world_.place()});
  if (world_.is_main()) log::info("ranks exchange GPU memory over NCCL");
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

#include "ops/device_memory.h"

#include "core/error.h"

namespace automodel::ops {
namespace {

class AllocatorMemory final : public comm::DeviceMemory {
 public:
  explicit AllocatorMemory(Allocator& allocator) : allocator_(allocator), host_(allocator.make_host_allocator()) {
    AM_CHECK(host_ != nullptr, Fault::kBug, "the memory of {} needs no staging", name_of(allocator.device()));
  }
  Device device() const override { return allocator_.device(); }
  void* take(int64_t bytes) override {
    return host_->allocate(static_cast<size_t>(bytes), MemoryClass::kCommunication);
  }
  void give_back(void* host, int64_t bytes) noexcept override {
    host_->release(host, static_cast<size_t>(bytes), MemoryClass::kCommunication);
  }
  void download(void* host, const void* device, int64_t bytes) override {
    allocator_.download(host, device, static_cast<size_t>(bytes));
  }
  void upload(void* device, const void* host, int64_t bytes) override {
    allocator_.upload(device, host, static_cast<size_t>(bytes));
  }

 private:
  Allocator& allocator_;
  std::unique_ptr<Allocator> host_;
};

}  // namespace

std::unique_ptr<comm::DeviceMemory> make_device_memory(Allocator& allocator) {
  return std::make_unique<AllocatorMemory>(allocator);
}

}  // namespace automodel::ops

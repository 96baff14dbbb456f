#include "tensor/allocator.h"

#include <algorithm>

#include "core/error.h"

namespace automodel {

const char* name_of(MemoryClass memory_class) {
  switch (memory_class) {
    case MemoryClass::kParameters:
      return "parameters";
    case MemoryClass::kGradients:
      return "gradients";
    case MemoryClass::kOptimizer:
      return "optimizer";
    case MemoryClass::kActivations:
      return "activations";
    case MemoryClass::kCommunication:
      return "communication";
    case MemoryClass::kWorkspace:
      return "workspace";
  }
  return "?";
}

void* Allocator::allocate(size_t bytes, MemoryClass memory_class) {
  std::lock_guard lock(mutex_);
  void* data = bytes == 0 ? nullptr : acquire(bytes);
  if (data == nullptr && bytes != 0 && !device().is_meta())
    fail(Fault::kDevice,
         "{}: no memory for {} more bytes of {}; {} bytes are in use (use a smaller batch, a shorter sequence or more "
         "ranks)",
         name_of(device()), bytes, name_of(memory_class), stats_.current_total);
  auto i = static_cast<size_t>(memory_class);
  auto n = static_cast<int64_t>(bytes);
  stats_.peak[i] = std::max(stats_.peak[i], stats_.current[i] += n);
  stats_.peak_total = std::max(stats_.peak_total, stats_.current_total += n);
  return data;
}

void Allocator::release(void* data, size_t bytes, MemoryClass memory_class) noexcept {
  std::lock_guard lock(mutex_);
  if (data != nullptr) give_back(data, bytes);
  stats_.current[static_cast<size_t>(memory_class)] -= static_cast<int64_t>(bytes);
  stats_.current_total -= static_cast<int64_t>(bytes);
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::reset_peaks() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.current;
  stats_.peak_total = stats_.current_total;
}

namespace {

// Index 0 stands for the device, 1 for the memory of its host.
class MetaAllocator final : public Allocator {
 public:
  MetaAllocator(int index, bool has_host) : index_(index), has_host_(has_host) {}
  Device device() const override { return {Device::Kind::kMeta, index_}; }
  void zero(void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}
  std::unique_ptr<Allocator> make_host_allocator() const override {
    return has_host_ ? std::make_unique<MetaAllocator>(1, false) : nullptr;
  }

 protected:
  void* acquire(size_t) override { return nullptr; }
  void give_back(void*, size_t) noexcept override {}

 private:
  int index_;
  bool has_host_;
};

}  // namespace

std::unique_ptr<Allocator> make_meta_allocator(bool has_host) {
  return std::make_unique<MetaAllocator>(0, has_host);
}

}  // namespace automodel

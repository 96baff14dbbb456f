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

class MetaAllocator final : public Allocator {
 public:
  Device device() const override { return {Device::Kind::kMeta, 0}; }
  void zero(void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}

 protected:
  void* acquire(size_t) override { return nullptr; }
  void give_back(void*, size_t) noexcept override {}
};

}  // namespace

std::unique_ptr<Allocator> make_meta_allocator() {
  return std::make_unique<MetaAllocator>();
}

}  // namespace automodel

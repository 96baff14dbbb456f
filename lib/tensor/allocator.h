// Memory of one rank on one device, counted by what it is for. Contexts are passed: every tensor knows the allocator it
// came from, and the allocator must outlive it. The host touches the memory of a device only by upload and download.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/device.h"

namespace automodel {

// What memory is for. Peaks of each class are metrics, and what `plan` predicts.
enum class MemoryClass { kParameters, kGradients, kOptimizer, kActivations, kCommunication, kWorkspace };
inline constexpr int kMemoryClasses = 6;
const char* name_of(MemoryClass memory_class);

struct MemoryStats {
  std::array<int64_t, kMemoryClasses> current{};  // bytes asked for and not yet given back
  std::array<int64_t, kMemoryClasses> peak{};     // highest `current` of each class since reset_peaks()
  int64_t current_total = 0;
  int64_t peak_total = 0;  // highest sum over the classes; at most the sum of the peaks
};

class Allocator {
 public:
  virtual ~Allocator() = default;

  virtual Device device() const = 0;

  // At least `bytes` bytes, aligned to 64, content unspecified; nullptr only on the meta device or for 0 bytes.
  // Throws Error(kDevice) when the device has no more memory, naming the class and the bytes in use.
  void* allocate(size_t bytes, MemoryClass memory_class);
  void release(void* data, size_t bytes, MemoryClass memory_class) noexcept;

  // Of this device's memory. A device may do its work later than it is asked, but in that order.
  virtual void zero(void* data, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  // Between `host` memory and this device's. Both return when the host memory may be used: upload then has taken it,
  // download has waited for the device to write it. Nothing happens on the meta device.
  virtual void upload(void* to, const void* host, size_t bytes) { copy(to, host, bytes); }
  virtual void download(void* host, const void* from, size_t bytes) { copy(host, from, bytes); }
  // Host memory that this device copies fastest; null: this memory is the host's.
  virtual std::unique_ptr<Allocator> make_host_allocator() const { return nullptr; }

  MemoryStats stats() const;
  // Peaks start again from what is in use now.
  void reset_peaks();

 protected:
  virtual void* acquire(size_t bytes) = 0;
  virtual void give_back(void* data, size_t bytes) noexcept = 0;

 private:
  mutable std::mutex mutex_;
  MemoryStats stats_;
};

// Host memory. Keeps its pages: blocks come from large segments backed by huge pages where the system has them, freed
// blocks are joined with free neighbours and used again (best fit), segments are returned when the allocator dies.
std::unique_ptr<Allocator> make_cpu_allocator();

// Counts and hands out nothing. `has_host`: it stands for a device whose host has memory of its own.
std::unique_ptr<Allocator> make_meta_allocator(bool has_host = false);

}  // namespace automodel

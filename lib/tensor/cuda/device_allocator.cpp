// Copies from the host go through two pinned buffers in turn: the host fills one while the device reads the other, and
// the caller's memory is free when upload returns, without waiting for the device's work. A download waits for it.
#include "tensor/cuda/device_allocator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "tensor/host_allocator.h"

namespace automodel::cuda {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kStage = 4 * kMiB;
constexpr size_t kSmall = 64 * 1024;  // a download that the pinned buffers take

// `what` completes "cuda:0: ... failed".
void check(cudaError_t error, int device, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail(Fault::kDevice, "cuda:{}: {} failed: {} ({})", device, what, cudaGetErrorString(error), cudaGetErrorName(error));
}

void* obtain_pinned(size_t bytes) {
  void* data = nullptr;
  if (cudaHostAlloc(&data, bytes, cudaHostAllocDefault) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

std::unique_ptr<Allocator> make_pinned_allocator() {
  return std::make_unique<HostAllocator>(
      SegmentPool::Source{obtain_pinned, [](void* data, size_t) { cudaFreeHost(data); }, 4 * kMiB, kMiB});
}

class DeviceAllocator final : public Allocator {
 public:
  DeviceAllocator(int index, UseStream use_stream) : index_(index), use_stream_(use_stream) {
    check(cudaSetDevice(index), index, "choosing the device");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), index, "making a stream");
    for (Stage& stage : stages_) {
      check(cudaHostAlloc(&stage.data, kStage, cudaHostAllocDefault), index, "pinning host memory");
      check(cudaEventCreateWithFlags(&stage.read, cudaEventDisableTiming), index, "making an event");
    }
    use_stream_(stream_);
  }
  ~DeviceAllocator() override {
    // Nobody hears of the errors of a device that was lost.
    cudaStreamSynchronize(stream_);
    use_stream_(nullptr);
    for (Stage& stage : stages_) {
      cudaFreeHost(stage.data);
      cudaEventDestroy(stage.read);
    }
    cudaStreamDestroy(stream_);
  }

  Device device() const override { return {Device::Kind::kCuda, index_}; }
  std::unique_ptr<Allocator> make_host_allocator() const override { return make_pinned_allocator(); }

  void zero(void* data, size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, stream_), index_, "zeroing memory");
  }
  void copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), index_, "a copy");
  }

  void upload(void* to, const void* host, size_t bytes) override {
    for (size_t at = 0; at < bytes; at += kStage) {
      size_t count = std::min(kStage, bytes - at);
      Stage& stage = next_stage();
      std::memcpy(stage.data, static_cast<const std::byte*>(host) + at, count);
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, stage.data, count, cudaMemcpyHostToDevice, stream_),
            index_, "a copy to the device");
      check(cudaEventRecord(stage.read, stream_), index_, "recording an event");
    }
  }

  void download(void* host, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    void* to = bytes <= kSmall ? next_stage().data : host;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), index_, "a copy to the host");
    check(cudaStreamSynchronize(stream_), index_, "the work before a copy to the host");
    if (to != host) std::memcpy(host, to, bytes);
  }

 protected:
  void* acquire(size_t bytes) override { return pool_.take(bytes); }
  void give_back(void* data, size_t) noexcept override { pool_.put(data); }

 private:
  struct Stage {
    void* data = nullptr;
    cudaEvent_t read = nullptr;  // by the device
  };

  // The one that was filled before the last one, once the device has read it.
  Stage& next_stage() {
    Stage& stage = stages_[turn_];
    turn_ = (turn_ + 1) % stages_.size();
    check(cudaEventSynchronize(stage.read), index_, "the work before a copy to the device");
    return stage;
  }

  void* obtain(size_t bytes) {
    void* data = nullptr;
    cudaError_t error = cudaMalloc(&data, bytes);
    if (error == cudaSuccess) return data;
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) check(error, index_, "allocating memory");
    return nullptr;
  }
  // Frees wait for the device: it has read what it was asked to.
  static void free_segment(void* data) { cudaFree(data); }

  int index_;
  UseStream use_stream_;
  cudaStream_t stream_ = nullptr;
  std::array<Stage, 2> stages_;
  size_t turn_ = 0;
  SegmentPool pool_{{[this](size_t bytes) { return obtain(bytes); }, [](void* data, size_t) { free_segment(data); },
                     64 * kMiB, 2 * kMiB}};
};

}  // namespace

std::unique_ptr<Allocator> make_device_allocator(int index, UseStream use_stream) {
  return std::make_unique<DeviceAllocator>(index, use_stream);
}

}  // namespace automodel::cuda

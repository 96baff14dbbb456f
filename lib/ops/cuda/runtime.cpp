#include "ops/cuda/runtime.h"

#include <cuda_runtime.h>

#include "core/error.h"

namespace automodel::ops::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fail(Fault::kDevice, "CUDA: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

struct Properties {
  int multiprocessors = 0;
  int shared_memory = 0;
};

struct State {
  cudaStream_t stream = cudaStreamPerThread;
  void* scratch = nullptr;
  size_t bytes = 0;
  Properties properties;

  // Working memory outlives the kernels that use it: freeing waits for the device. Errors of a device that is gone
  // already are of no interest.
  ~State() {
    if (scratch != nullptr) cudaFree(scratch);
  }
};

State& state() {
  thread_local State mine;
  return mine;
}

const Properties& properties() {
  Properties& p = state().properties;
  if (p.multiprocessors > 0) return p;
  int device = 0;
  check(cudaGetDevice(&device), "the current device");
  check(cudaDeviceGetAttribute(&p.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  check(cudaDeviceGetAttribute(&p.multiprocessors, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return p;
}

}  // namespace

void use_stream(void* stream) {
  State& s = state();
  if (stream == s.stream) return;
  // Kernels on the old stream may still use the working memory.
  if (s.scratch != nullptr) check(cudaStreamSynchronize(s.stream), "the end of a stream");
  s.stream = static_cast<cudaStream_t>(stream);
}

void* stream() {
  return state().stream;
}

void* scratch(size_t bytes) {
  State& s = state();
  if (bytes <= s.bytes) return s.scratch;
  constexpr size_t kUnit = size_t{1} << 20;
  size_t size = (bytes + bytes / 4 + kUnit - 1) / kUnit * kUnit;
  if (s.scratch != nullptr) check(cudaFreeAsync(s.scratch, s.stream), "freeing working memory");
  s.scratch = nullptr;
  s.bytes = 0;
  cudaError_t status = cudaMallocAsync(&s.scratch, size, s.stream);
  if (status != cudaSuccess) {
    s.scratch = nullptr;
    cudaGetLastError();
    fail(Fault::kDevice, "CUDA: no {} MiB of working memory for a kernel: {}; use a smaller batch", size / kUnit,
         cudaGetErrorString(status));
  }
  s.bytes = size;
  return s.scratch;
}

int multiprocessors() {
  return properties().multiprocessors;
}

size_t most_shared_memory() {
  return static_cast<size_t>(properties().shared_memory);
}

void set_zero(void* data, size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, state().stream), "setting memory to zero");
}

void check_launch() {
  check(cudaGetLastError(), "launching a kernel");
}

void allow_shared_memory(const void* kernel, size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of a kernel");
}

}  // namespace automodel::ops::cuda

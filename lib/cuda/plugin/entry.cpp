#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "comm/cuda/nccl.h"
#include "core/error.h"
#include "cuda/architectures.h"
#include "cuda/plugin.h"
#include "cuda/plugin/libraries.h"
#include "ops/cuda/runtime.h"
#include "ops/cuda/table.h"
#include "tensor/cuda/device_allocator.h"

namespace automodel::cuda {
namespace {

std::string version_text(int number) {
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

// What the runtime's answer to "how many devices" means.
std::string why_none(cudaError_t error) {
  if (error == cudaErrorInsufficientDriver)
    return fmt::format("there is no NVIDIA driver that CUDA {} can use (nvidia-smi shows the driver's version)",
                       version_text(CUDART_VERSION));
  if (error == cudaErrorNoDevice) return "the NVIDIA driver shows no device (CUDA_VISIBLE_DEVICES can hide them)";
  return fmt::format("the CUDA runtime says: {}", cudaGetErrorString(error));
}

DeviceInfo describe_device(int index) {
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  AM_CHECK(error == cudaSuccess, Fault::kDevice, "cuda:{}: {}", index, cudaGetErrorString(error));
  DeviceInfo info{properties.name,
                  std::string(properties.uuid.bytes, sizeof(properties.uuid.bytes)),
                  properties.major,
                  properties.minor,
                  properties.multiProcessorCount,
                  static_cast<int64_t>(properties.totalGlobalMem),
                  0};
  size_t free = 0, total = 0;
  int before = 0;
  if (cudaGetDevice(&before) == cudaSuccess && cudaSetDevice(index) == cudaSuccess) {
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) info.free_bytes = static_cast<int64_t>(free);
    cudaSetDevice(before);
  }
  return info;
}

// All devices, if the plugin has code for each of them. Touches none: a rank takes memory of its own device alone.
int count_devices(std::string& reason) {
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    reason = why_none(error == cudaSuccess ? cudaErrorNoDevice : error);
    cudaGetLastError();
    return 0;
  }
  for (int i = 0; i < devices; ++i) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i);
    if (has_code(AUTOMODEL_CUDA_ARCHITECTURES, major, minor)) continue;
    reason = fmt::format(
        "cuda:{} has compute capability {}.{}, for which this build has no code (it was built for {}); build with "
        "-DAUTOMODEL_CUDA_ARCHITECTURES={}{}-real, or hide the device with CUDA_VISIBLE_DEVICES",
        i, major, minor, AUTOMODEL_CUDA_ARCHITECTURES, major, minor);
    return 0;
  }
  return devices;
}

const ops::Kernels* kernels() {
  return &ops::cuda::table();
}

std::unique_ptr<Allocator> make_allocator(int index) {
  return make_device_allocator(index, ops::cuda::use_stream);
}

std::unique_ptr<comm::DeviceLink> make_link(int index, std::string& why_not) {
  return make_nccl_link(index, ops::cuda::stream(), why_not);
}

}  // namespace
}  // namespace automodel::cuda

extern "C" __attribute__((visibility("default"))) const automodel::cuda::Plugin* automodel_cuda_plugin() {
  using namespace automodel::cuda;
  static const Plugin plugin{.program_version = AUTOMODEL_VERSION,
                             .count_devices = count_devices,
                             .describe_device = describe_device,
                             .make_allocator = make_allocator,
                             .kernels = kernels,
                             .make_link = make_link,
                             .find_libraries = find_libraries};
  return &plugin;
}

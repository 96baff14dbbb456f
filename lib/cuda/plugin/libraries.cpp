// cuDNN and NCCL are asked by way of the loader: the plugin does not need them to be there.
#include "cuda/plugin/libraries.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

namespace automodel::cuda {
namespace {

// 13000 -> 13.0
std::string cuda_version(int number) {
  return number == 0 ? "" : fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

// The function `name` of an optional library; null: there is none. It stays open.
template <class Function>
Function* function_of(const char* library, const char* name) {
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  return handle == nullptr ? nullptr : reinterpret_cast<Function*>(::dlsym(handle, name));
}

std::string cudnn_version() {
  auto* version = function_of<size_t()>("libcudnn.so.9", "cudnnGetVersion");
  if (version == nullptr) return "";
  size_t n = version();  // 91900
  return fmt::format("{}.{}.{}", n / 10000, n % 10000 / 100, n % 100);
}

std::string nccl_version() {
  auto* version = function_of<int(int*)>("libnccl.so.2", "ncclGetVersion");
  int n = 0;  // 22809
  if (version == nullptr || version(&n) != 0) return "";
  return fmt::format("{}.{}.{}", n / 10000, n % 10000 / 100, n % 100);
}

std::string cublas_version() {
  size_t n = cublasLtGetVersion();  // 130100
  return fmt::format("{}.{}.{}", n / 10000, n % 10000 / 100, n % 100);
}

}  // namespace

std::vector<LibraryVersion> find_libraries() {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = 0;
  cudaGetLastError();
  return {{"driver (highest CUDA)", cuda_version(driver)},
          {"CUDA runtime", cuda_version(runtime)},
          {"cuBLASLt", cublas_version()},
          {"cuDNN", cudnn_version()},
          {"NCCL", nccl_version()}};
}

}  // namespace automodel::cuda

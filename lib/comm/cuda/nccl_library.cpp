#include "comm/cuda/nccl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace automodel::cuda {
namespace {

constexpr const char* kFile = "libnccl.so.2";

struct Library {
  void* handle = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  std::string why_not = handle != nullptr ? "" : ::dlerror();
};

}  // namespace

void* nccl_function(const char* name, std::string& why_not) {
  static const Library library;
  if (library.handle == nullptr) {
    why_not = fmt::format(
        "{} was not found; install NCCL, or name its folder in AUTOMODEL_CUDA_LIBRARY_PATH (the loader says: {})",
        kFile, library.why_not);
    return nullptr;
  }
  void* function = ::dlsym(library.handle, name);
  if (function == nullptr)
    why_not = fmt::format("{} has no {}: it is another library, or older than NCCL 2.18", kFile, name);
  return function;
}

}  // namespace automodel::cuda

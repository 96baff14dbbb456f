#include "comm/cuda/nccl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <mutex>

namespace automodel::cuda {
namespace {

constexpr const char* kFile = "libnccl.so.2";
constexpr int kOldest = NCCL_VERSION(2, 18, 0);  // the first that splits communicators

struct Found {
  NcclLibrary library{};
  bool usable = false;
  std::string why_not;
};

template <class Function>
bool find(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(handle, name));
  return function != nullptr;
}

Found open_library() {
  Found found;
  void* handle = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    found.why_not = fmt::format(
        "{} was not found; install NCCL, or name its folder in AUTOMODEL_CUDA_LIBRARY_PATH (the loader says: {})",
        kFile, ::dlerror());
    return found;
  }
  NcclLibrary& l = found.library;
  int version = 0;
  if (!find(handle, "ncclGetVersion", l.get_version) || l.get_version(&version) != ncclSuccess || version < kOldest) {
    found.why_not = fmt::format("{} is version {}.{}.{}, at least 2.18 is needed", kFile, version / 10000,
                                version % 10000 / 100, version % 100);
    return found;
  }
  found.usable = find(handle, "ncclGetUniqueId", l.get_unique_id) &&
                 find(handle, "ncclCommInitRankConfig", l.init_rank) && find(handle, "ncclCommSplit", l.split) &&
                 find(handle, "ncclCommFinalize", l.finalize) && find(handle, "ncclCommDestroy", l.destroy) &&
                 find(handle, "ncclCommAbort", l.abort) && find(handle, "ncclCommGetAsyncError", l.get_async_error) &&
                 find(handle, "ncclGetErrorString", l.error_string) && find(handle, "ncclGetLastError", l.last_error) &&
                 find(handle, "ncclAllReduce", l.all_reduce) && find(handle, "ncclAllGather", l.all_gather) &&
                 find(handle, "ncclReduceScatter", l.reduce_scatter) && find(handle, "ncclBroadcast", l.broadcast) &&
                 find(handle, "ncclSend", l.send) && find(handle, "ncclRecv", l.receive) &&
                 find(handle, "ncclGroupStart", l.group_start) && find(handle, "ncclGroupEnd", l.group_end);
  if (!found.usable) found.why_not = fmt::format("{} lacks functions of NCCL: it is another library", kFile);
  return found;
}

}  // namespace

const NcclLibrary* nccl_library(std::string& why_not) {
  static const Found found = open_library();
  why_not = found.why_not;
  return found.usable ? &found.library : nullptr;
}

}  // namespace automodel::cuda

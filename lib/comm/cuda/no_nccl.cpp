// In the place of nccl.cpp where the plugin is built without NCCL's header.
#include "comm/cuda/nccl.h"

namespace automodel::cuda {

std::unique_ptr<comm::DeviceLink> make_nccl_link(int, void*, std::string& why_not) {
  why_not = "the plugin was built without NCCL, as nccl.h was not found";
  return nullptr;
}

}  // namespace automodel::cuda

// libnccl, found by the loader at run time: the plugin works without NCCL. Part of the plugin.
#pragma once

#include <string>

namespace automodel::cuda {

// The function of libnccl.so.2 of this name. Null, with a clause that says why, where there is no such library or no
// such function in it. The library stays open.
void* nccl_function(const char* name, std::string& why_not);

}  // namespace automodel::cuda

#pragma once

#include <vector>

#include "cuda/plugin.h"

namespace automodel::cuda {

// The driver, the libraries that the plugin is linked with, and those that jobs may use beside them.
std::vector<LibraryVersion> find_libraries();

}  // namespace automodel::cuda

// A device for tests that need one.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>

#include "cuda/backend.h"

namespace automodel::test {

// False, and says so, where there is no device.
inline bool has_device() {
  setenv("AUTOMODEL_CUDA_PLUGIN", AUTOMODEL_CUDA_PLUGIN_FILE, 0);
  if (cuda::backend().usable()) return true;
  MESSAGE("skipped: " << cuda::backend().why_not);
  return false;
}

inline std::unique_ptr<Allocator> device_memory() {
  return cuda::backend().plugin->make_allocator(0);
}

}  // namespace automodel::test

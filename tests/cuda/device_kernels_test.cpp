// The CUDA kernels on a real device, when there is one, against the CPU's.
#include <doctest/doctest.h>

#include <map>

#include "ops/cuda_checks.h"
#include "support/real_device.h"

using namespace automodel;
using ops::test::Machine;

TEST_CASE("kernels of a device agree with the CPU's") {
  if (!test::has_device()) return;
  auto allocator = test::device_memory();
  std::map<void*, size_t> sizes;
  Machine machine{ops::kernels(allocator->device()),
                  allocator->device(),
                  [&](size_t bytes) {
                    void* data = allocator->allocate(bytes, MemoryClass::kWorkspace);
                    sizes[data] = bytes;
                    return data;
                  },
                  [&](void* data) {
                    allocator->release(data, sizes[data], MemoryClass::kWorkspace);
                    sizes.erase(data);
                  },
                  [&](void* to, const void* from, size_t bytes) { allocator->upload(to, from, bytes); },
                  [&](void* to, const void* from, size_t bytes) { allocator->download(to, from, bytes); },
                  [](int) {},
                  true};
  for (const ops::test::Check& check : ops::test::checks()) {
    SUBCASE(check.name) {
      check.run(machine);
    }
  }
}

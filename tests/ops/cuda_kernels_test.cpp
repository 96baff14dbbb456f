// The CUDA kernels' sources, compiled for the host and run by an emulator, against the CPU's kernels.
#include <cstdlib>
#include <cstring>

#include "ops/cuda/table.h"
#include "ops/cuda_checks.h"
#include "support/cuda_emulator/fibers.h"

using namespace automodel;
using namespace automodel::ops::test;

namespace {

Machine emulated() {
  auto copy = [](void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  };
  auto order = [](int run) {
    emulator::set_order(run == 0 ? emulator::Order::kAscending : emulator::Order::kDescending);
  };
  return {ops::cuda::table(), Device{}, [](size_t bytes) { return std::malloc(bytes); }, std::free, copy, copy, order};
}

}  // namespace

TEST_CASE("emulated CUDA kernels agree with the CPU's") {
  Machine machine = emulated();
  for (const Check& check : checks()) SUBCASE(check.name) {
      check.run(machine);
    }
}

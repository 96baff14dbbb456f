// The tables: which one a device gets, and what the meta table does.
#include <cstdlib>

#include "core/error.h"
#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;

TEST_CASE("a CPU tensor gets the fastest set that the processor runs, or the one that AUTOMODEL_ISA names") {
  auto sets = cpu::runnable_sets();
  REQUIRE(!sets.empty());
  CHECK(sets.front().name == "base");
  const char* wanted = std::getenv("AUTOMODEL_ISA");
  const Kernels* expected = sets.back().kernels;
  for (const cpu::KernelSet& set : sets)
    if (wanted != nullptr && set.name == wanted) expected = set.kernels;
  CHECK(&kernels(Device{}) == expected);
}

TEST_CASE("the meta kernels do nothing and need no memory") {
  auto allocator = make_meta_allocator();
  Tensor a = Tensor::empty(Shape{4, 6}, DType::kF32, *allocator),
         b = Tensor::empty(Shape{6, 8}, DType::kF32, *allocator);
  Tensor c = Tensor::empty(Shape{4, 8}, DType::kF32, *allocator);
  const Kernels& table = kernels(a.device());
  table.matmul(c, a, b, {});
  table.add(c, c, c);
  table.scale(c, 2);
  CHECK(&table == &meta::table());
}

TEST_CASE("a device is refused by name until its backend gives it kernels") {
  Device device{Device::Kind::kCuda, 1};
  CHECK_THROWS_WITH_AS(kernels(device), doctest::Contains("cuda:1: no backend for this device was opened"), Error);
  set_cuda_kernels(&meta::table());
  CHECK(&kernels(device) == &meta::table());
  set_cuda_kernels(nullptr);
  CHECK_THROWS_AS(kernels(device), Error);
}

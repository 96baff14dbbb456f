#include "tensor/tensor.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

using namespace automodel;

TEST_CASE("the allocator's blocks are aligned, never overlap, and their memory is used again") {
  auto allocator = make_cpu_allocator();
  Random random(1, "blocks");
  std::map<char*, size_t> live;
  for (uint64_t i = 0; i < 4000; ++i) {
    if (live.size() > 40 || (random.below(3, 2 * i) == 0 && !live.empty())) {
      auto it = std::next(live.begin(), static_cast<int64_t>(random.below(live.size(), 2 * i + 1)));
      allocator->release(it->first, it->second, MemoryClass::kActivations);
      live.erase(it);
      continue;
    }
    size_t bytes = 1 + random.below(i % 50 == 0 ? 40u << 20 : 1u << 18, 2 * i + 1);
    auto* data = static_cast<char*>(allocator->allocate(bytes, MemoryClass::kActivations));
    REQUIRE(reinterpret_cast<uintptr_t>(data) % 64 == 0);
    auto next = live.lower_bound(data);
    if (next != live.end()) REQUIRE(data + bytes <= next->first);
    if (next != live.begin()) REQUIRE(std::prev(next)->first + std::prev(next)->second <= data);
    data[0] = data[bytes - 1] = 1;
    live[data] = bytes;
  }
  for (auto& [data, bytes] : live) allocator->release(data, bytes, MemoryClass::kActivations);
  void* first = allocator->allocate(100000, MemoryClass::kWorkspace);
  allocator->release(first, 100000, MemoryClass::kWorkspace);
  CHECK(allocator->allocate(100000, MemoryClass::kWorkspace) == first);
  allocator->release(first, 100000, MemoryClass::kWorkspace);
  CHECK(allocator->stats().current_total == 0);
}

TEST_CASE("memory is counted by class, with peaks") {
  auto allocator = make_cpu_allocator();
  {
    Tensor a = Tensor::empty({10}, DType::kF32, *allocator, MemoryClass::kParameters);
    { Tensor b = Tensor::empty({5}, DType::kBF16, *allocator, MemoryClass::kGradients); }
    auto stats = allocator->stats();
    CHECK(stats.current[0] == 40);
    CHECK(stats.current[1] == 0);
    CHECK(stats.peak[1] == 10);
    CHECK(stats.peak_total == 50);
    allocator->reset_peaks();
    CHECK(allocator->stats().peak_total == 40);
  }
  CHECK(allocator->stats().current_total == 0);
}

TEST_CASE("meta tensors have shapes and sizes but no memory") {
  auto allocator = make_meta_allocator();
  Tensor t = Tensor::zeros({int64_t{1} << 40}, DType::kF32, *allocator);
  CHECK(t.raw() == nullptr);
  CHECK(allocator->stats().current_total == int64_t{1} << 42);
}

TEST_CASE("views share memory: rows, columns, shapes") {
  auto allocator = make_cpu_allocator();
  Tensor t = Tensor::empty({4, 6}, DType::kI32, *allocator);
  for (int32_t i = 0; i < 24; ++i) t.data<int32_t>()[i] = i;
  CHECK(t.narrow(1, 2).data<int32_t>()[0] == 6);
  Tensor c = t.columns(2, 3);
  CHECK(c.data<int32_t>()[0] == 2);
  CHECK(c.row_stride() == 6);
  CHECK(!c.contiguous());
  CHECK(c.narrow(2, 1).data<int32_t>()[0] == 14);
  CHECK(t.view({24}).narrow(5, 1).data<int32_t>()[0] == 5);
  CHECK_THROWS_AS(c.view({12}), Error);
  CHECK_THROWS_AS(t.narrow(3, 2), Error);
  CHECK_THROWS_AS(t.data<double>(), Error);
  CHECK(!t.unique());
  CHECK(t.clone().unique());
}

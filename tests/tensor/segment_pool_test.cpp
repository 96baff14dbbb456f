#include "tensor/segment_pool.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <vector>

using namespace automodel;

namespace {

// Hands out up to `budget` bytes, and knows what is out.
struct Bank {
  explicit Bank(size_t bytes) : budget(bytes) {}
  ~Bank() { CHECK(out.empty()); }

  SegmentPool::Source source(size_t segment) {
    auto obtain = [this](size_t bytes) -> void* {
      if (bytes > budget) return nullptr;
      budget -= bytes;
      void* data = std::aligned_alloc(SegmentPool::kAlign, bytes);
      out[data] = bytes;
      ++loans;
      return data;
    };
    auto give_back = [this](void* data, size_t bytes) {
      CHECK(out.at(data) == bytes);
      budget += bytes;
      out.erase(data);
      std::free(data);
    };
    return {obtain, give_back, segment, 1024};
  }

  size_t budget;
  int loans = 0;
  std::map<void*, size_t> out;
};

}  // namespace

TEST_CASE("a pool meets repeated requests from what it has") {
  Bank bank(1 << 20);
  SegmentPool pool(bank.source(4096));
  for (int round = 0; round < 3; ++round) {
    std::vector<void*> blocks;
    for (size_t bytes : {100, 1000, 300, 5000, 1}) blocks.push_back(pool.take(bytes));
    for (void* block : blocks) {
      REQUIRE(block != nullptr);
      CHECK(reinterpret_cast<uintptr_t>(block) % SegmentPool::kAlign == 0);
    }
    for (void* block : blocks) pool.put(block);
    CHECK(bank.loans == 2);
  }
  CHECK(pool.held() == 4096 + 5120);
}

TEST_CASE("a pool whose source has no more gives back what nobody uses, and only then refuses") {
  Bank bank(16 * 1024);
  SegmentPool pool(bank.source(1024));
  void* kept = pool.take(1024);
  void* first = pool.take(6 * 1024);
  void* second = pool.take(6 * 1024);
  CHECK(pool.take(6 * 1024) == nullptr);
  pool.put(first);
  pool.put(second);
  CHECK(bank.loans == 3);
  // Neither of the free segments is large enough, the two together are.
  void* large = pool.take(12 * 1024);
  CHECK(large != nullptr);
  CHECK(bank.out.size() == 2);
  CHECK(pool.take(8 * 1024) == nullptr);
  pool.put(large);
  pool.put(kept);
}

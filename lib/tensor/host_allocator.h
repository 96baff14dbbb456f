// Host memory in segments from some source.
#pragma once

#include <cstring>
#include <utility>

#include "tensor/allocator.h"
#include "tensor/segment_pool.h"

namespace automodel {

class HostAllocator final : public Allocator {
 public:
  explicit HostAllocator(SegmentPool::Source source) : pool_(std::move(source)) {}

  Device device() const override { return {}; }
  void zero(void* data, size_t bytes) override { std::memset(data, 0, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

 protected:
  void* acquire(size_t bytes) override { return pool_.take(bytes); }
  void give_back(void* data, size_t) noexcept override { pool_.put(data); }

 private:
  SegmentPool pool_;
};

}  // namespace automodel

#include "tensor/segment_pool.h"

#include <algorithm>
#include <iterator>

namespace automodel {
namespace {

size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

SegmentPool::~SegmentPool() {
  for (auto [data, size] : segments_) source_.give_back(data, size);
}

size_t SegmentPool::held() const {
  size_t total = 0;
  for (auto [data, size] : segments_) total += size;
  return total;
}

bool SegmentPool::add_segment(size_t need) {
  size_t size = round_up(std::max(need, source_.segment), source_.unit);
  auto* data = static_cast<char*>(source_.obtain(size));
  if (data == nullptr) return false;
  segments_[data] = size;
  blocks_[data] = {size, data, true};
  free_.insert({size, data});
  return true;
}

void SegmentPool::drop_unused() {
  for (auto segment = segments_.begin(); segment != segments_.end();) {
    auto [data, size] = *segment;
    const Block& first = blocks_.at(data);
    if (!first.free || first.size != size) {
      ++segment;
      continue;
    }
    free_.erase({size, data});
    blocks_.erase(data);
    source_.give_back(data, size);
    segment = segments_.erase(segment);
  }
}

void* SegmentPool::take(size_t bytes) {
  size_t need = round_up(bytes, kAlign);
  auto fit = free_.lower_bound({need, nullptr});
  if (fit == free_.end()) {
    if (!add_segment(need)) {
      drop_unused();
      if (!add_segment(need)) return nullptr;
    }
    fit = free_.lower_bound({need, nullptr});
  }
  auto [size, data] = *fit;
  free_.erase(fit);
  Block& block = blocks_[data];
  block.free = false;
  if (size > need) {
    block.size = need;
    blocks_[data + need] = {size - need, block.segment, true};
    free_.insert({size - need, data + need});
  }
  return data;
}

void SegmentPool::put(void* pointer) noexcept {
  auto here = blocks_.find(static_cast<char*>(pointer));
  auto next = std::next(here);
  if (next != blocks_.end() && next->second.free && next->second.segment == here->second.segment) {
    free_.erase({next->second.size, next->first});
    here->second.size += next->second.size;
    blocks_.erase(next);
  }
  if (here != blocks_.begin()) {
    auto previous = std::prev(here);
    if (previous->second.free && previous->second.segment == here->second.segment) {
      free_.erase({previous->second.size, previous->first});
      previous->second.size += here->second.size;
      blocks_.erase(here);
      here = previous;
    }
  }
  here->second.free = true;
  free_.insert({here->second.size, here->first});
}

}  // namespace automodel

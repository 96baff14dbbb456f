#include "comm/scratch.h"

#include <algorithm>
#include <bit>
#include <new>

namespace automodel::comm {

constexpr std::align_val_t kAlignment{64};

void ScratchPool::Free::operator()(std::byte* data) const {
  ::operator delete(data, kAlignment);
}

ScratchPool::Block ScratchPool::take(int64_t bytes) {
  if (bytes == 0) return {};
  size_t best = free_.size();
  for (size_t i = 0; i < free_.size(); ++i) {
    if (free_[i].bytes >= bytes && (best == free_.size() || free_[i].bytes < free_[best].bytes)) best = i;
  }
  if (best < free_.size()) {
    Block block = std::move(free_[best]);
    free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(best));
    return block;
  }
  // Small blocks are rounded to powers of two, so that calls of similar sizes share them.
  const int64_t small = int64_t{1} << 20;
  const int64_t size = bytes < small
                           ? std::max<int64_t>(4096, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes))))
                           : bytes;
  allocated_ += size;
  auto* data = static_cast<std::byte*>(::operator new(static_cast<size_t>(size), kAlignment));
  return {std::unique_ptr<std::byte, Free>(data), size};
}

void ScratchPool::give_back(Block block) {
  if (block.data) free_.push_back(std::move(block));
}

}  // namespace automodel::comm

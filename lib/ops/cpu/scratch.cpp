#include "ops/cpu/scratch.h"

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <new>

namespace automodel::ops::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

class Block {
 public:
  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { std::free(data_); }

  void* at_least(size_t bytes) {
    if (bytes <= size_) return data_;
    std::free(data_);
    size_ = 0;
    bool large = bytes >= kHugePage;
    size_t unit = large ? kHugePage : 4096;
    size_t size = (bytes + unit - 1) / unit * unit;
    data_ = std::aligned_alloc(unit, size);
    if (data_ == nullptr) throw std::bad_alloc();
    if (large) ::madvise(data_, size, MADV_HUGEPAGE);
    size_ = size;
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void* scratch(ScratchSlot slot, size_t bytes) {
  thread_local std::array<Block, static_cast<size_t>(ScratchSlot::kCount)> blocks;
  return blocks[static_cast<size_t>(slot)].at_least(bytes);
}

}  // namespace automodel::ops::cpu

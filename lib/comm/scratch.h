// Memory that operations borrow. Blocks are kept and lent again, so a job that repeats its calls stops allocating after
// the first step. 64-byte aligned, uninitialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace automodel::comm {

class ScratchPool {
 public:
  struct Free {
    void operator()(std::byte* data) const;
  };
  struct Block {
    std::unique_ptr<std::byte, Free> data;
    int64_t bytes = 0;
  };

  // At least `bytes`: the smallest free block that fits, or a new one. 0 bytes give an empty block.
  Block take(int64_t bytes);
  void give_back(Block block);
  // Bytes in blocks that were ever made.
  int64_t allocated() const { return allocated_; }

 private:
  std::vector<Block> free_;
  int64_t allocated_ = 0;
};

}  // namespace automodel::comm

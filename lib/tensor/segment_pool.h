// Memory that is asked for by the block and got by the segment: blocks come from large segments, freed blocks are
// joined with free neighbours and used again (best fit). Training asks for the same sizes step after step, so after the
// first step every request is met from segments that are already there.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace automodel {

class SegmentPool {
 public:
  struct Source {
    std::function<void*(size_t bytes)> obtain;  // nullptr: there is no more
    std::function<void(void* data, size_t bytes)> give_back;
    size_t segment = 0;  // bytes; requests above this get a segment of their own
    size_t unit = 0;     // segments are multiples of this
  };
  static constexpr size_t kAlign = 256;  // of blocks, where segments are

  explicit SegmentPool(Source source) : source_(std::move(source)) {}
  ~SegmentPool();
  SegmentPool(const SegmentPool&) = delete;
  SegmentPool& operator=(const SegmentPool&) = delete;

  // nullptr: the source has no more, also after the segments that nobody uses were given back.
  void* take(size_t bytes);
  void put(void* data) noexcept;
  // In segments.
  size_t held() const;

 private:
  struct Block {
    size_t size = 0;
    char* segment = nullptr;
    bool free = false;
  };
  bool add_segment(size_t need);
  void drop_unused();

  Source source_;
  std::map<char*, Block> blocks_;            // every block, by address
  std::set<std::pair<size_t, char*>> free_;  // the free ones, by size
  std::map<char*, size_t> segments_;
};

}  // namespace automodel

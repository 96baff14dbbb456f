// A best-fit allocator over large segments. Training asks for the same sizes step after step, so after the first step
// every request is met from memory that is already mapped: page faults and unmapping, which cost a step of an ordinary
// malloc up to half of its time, do not happen.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/allocator.h"

namespace automodel {
namespace {

constexpr size_t kAlign = 256;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSegment = size_t{32} << 20;  // requests above this get a segment of their own size

size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

struct Segment {
  char* data;
  size_t size;
};

Segment map_segment(size_t size) {
  // Map one huge page more and cut, so that the segment starts on a huge page.
  size_t mapped = size + kHugePage;
  void* raw = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return {nullptr, 0};
  char* begin = static_cast<char*>(raw);
  auto address = reinterpret_cast<uintptr_t>(begin);
  size_t head = round_up(address, kHugePage) - address;
  if (head != 0) ::munmap(begin, head);
  if (kHugePage != head) ::munmap(begin + head + size, kHugePage - head);
  ::madvise(begin + head, size, MADV_HUGEPAGE);
  return {begin + head, size};
}

class CpuAllocator final : public Allocator {
 public:
  ~CpuAllocator() override {
    for (auto& segment : segments_) ::munmap(segment.data, segment.size);
  }

  Device device() const override { return {}; }
  void zero(void* data, size_t bytes) override { std::memset(data, 0, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

 protected:
  void* acquire(size_t bytes) override {
    size_t need = round_up(bytes, kAlign);
    auto fit = free_.lower_bound({need, nullptr});
    if (fit == free_.end()) {
      size_t size = round_up(std::max(need, kSegment), kHugePage);
      Segment segment = map_segment(size);
      if (segment.data == nullptr) return nullptr;
      segments_.push_back(segment);
      blocks_[segment.data] = {segment.size, segment.data, true};
      fit = free_.insert({segment.size, segment.data}).first;
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

  void give_back(void* pointer, size_t) noexcept override {
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

 private:
  struct Block {
    size_t size = 0;
    char* segment = nullptr;
    bool free = false;
  };
  std::map<char*, Block> blocks_;            // every block, by address
  std::set<std::pair<size_t, char*>> free_;  // the free ones, by size
  std::vector<Segment> segments_;
};

}  // namespace

std::unique_ptr<Allocator> make_cpu_allocator() {
  return std::make_unique<CpuAllocator>();
}

}  // namespace automodel

// Host memory in segments of huge pages: page faults and unmapping, which cost a step of an ordinary malloc up to half
// of its time, do not happen.
#include <sys/mman.h>

#include "tensor/host_allocator.h"

namespace automodel {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSegment = size_t{32} << 20;

void* map_segment(size_t size) {
  // Map one huge page more and cut, so that the segment starts on a huge page.
  size_t mapped = size + kHugePage;
  void* raw = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(raw);
  size_t head = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (head != 0) ::munmap(begin, head);
  if (kHugePage != head) ::munmap(begin + head + size, kHugePage - head);
  ::madvise(begin + head, size, MADV_HUGEPAGE);
  return begin + head;
}

}  // namespace

std::unique_ptr<Allocator> make_cpu_allocator() {
  return std::make_unique<HostAllocator>(
      SegmentPool::Source{map_segment, [](void* data, size_t size) { ::munmap(data, size); }, kSegment, kHugePage});
}

}  // namespace automodel

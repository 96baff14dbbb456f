#include "parallel/layout.h"

#include <algorithm>

namespace automodel::parallel {
namespace {

constexpr int64_t kAlign = 16;  // elements: 64 bytes in fp32

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

FlatLayout::FlatLayout(const std::vector<nn::Param*>& params, int shards) : shards_(shards) {
  for (nn::Param* param : params) {
    int64_t numel = param->local_shape().numel();
    segments_.push_back({param, size_, numel});
    size_ = round_up(size_ + numel, kAlign);
  }
  size_ = round_up(size_, kAlign * shards);
}

std::vector<Piece> FlatLayout::pieces(int index) const {
  int64_t first = shard_size() * index;
  int64_t last = first + shard_size();
  std::vector<Piece> out;
  for (const Segment& s : segments_) {
    int64_t begin = std::max(first, s.offset);
    int64_t end = std::min(last, s.offset + s.numel);
    if (begin < end) out.push_back({s.param, begin - s.offset, end - s.offset, begin - first});
  }
  return out;
}

std::vector<std::pair<int64_t, int64_t>> FlatLayout::gaps() const {
  std::vector<std::pair<int64_t, int64_t>> out;
  int64_t at = 0;
  for (const Segment& s : segments_) {
    if (s.offset > at) out.emplace_back(at, s.offset);
    at = s.offset + s.numel;
  }
  if (size_ > at) out.emplace_back(at, size_);
  return out;
}

}  // namespace automodel::parallel

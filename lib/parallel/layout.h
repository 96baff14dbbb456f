// How the Params of one unit (the tensor-parallel rank's parts of them) lie in its flat buffer and how the buffer is
// cut over ranks. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/param.h"

namespace automodel::parallel {

// A Param's elements are flat elements [offset, offset + numel) of its unit.
struct Segment {
  nn::Param* param = nullptr;
  int64_t offset = 0;
  int64_t numel = 0;
};

// A run of one Param's elements that one rank owns: elements [begin, end) of its part of the Param, at [flat, flat +
// end - begin) of the rank's shard.
struct Piece {
  nn::Param* param = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t flat = 0;
};

// Params follow one another in the given order, each beginning on a multiple of 16 elements; the whole is padded so
// that `shards` equal parts of whole 16s result. The layout does not depend on the strategy.
class FlatLayout {
 public:
  FlatLayout(const std::vector<nn::Param*>& params, int shards);

  const std::vector<Segment>& segments() const { return segments_; }
  int64_t size() const { return size_; }  // elements, padding included
  int64_t shard_size() const { return size_ / shards_; }
  int shards() const { return shards_; }
  // What shard `index` owns, in ascending order.
  std::vector<Piece> pieces(int index) const;
  // The flat ranges that belong to no Param.
  std::vector<std::pair<int64_t, int64_t>> gaps() const;

 private:
  std::vector<Segment> segments_;
  int64_t size_ = 0;
  int shards_ = 1;
};

}  // namespace automodel::parallel

// What generation keeps of a text so that each token is computed once: the keys and values of every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/attention.h"

namespace automodel::nn {

class KvCache {
 public:
  // Of up to `capacity` positions. The first tokens that pass a layer allocate its memory, for all positions.
  KvCache(int layers, int64_t capacity) : layers_(static_cast<size_t>(layers)), capacity_(capacity) {}
  int64_t capacity() const { return capacity_; }
  // Positions that all layers have seen: the position of the next token.
  int64_t length() const { return layers_.empty() ? 0 : layers_.back().length; }
  ops::KeyValues& layer(int i) { return layers_.at(static_cast<size_t>(i)); }

 private:
  std::vector<ops::KeyValues> layers_;
  int64_t capacity_;
};

}  // namespace automodel::nn

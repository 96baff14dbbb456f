#include "core/shape.h"

#include <algorithm>

#include "core/error.h"

namespace automodel {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  AM_CHECK(dims.size() <= kMaxRank, Fault::kShape, "a tensor of {} dims is more than the {} supported", dims.size(),
           kMaxRank);
  for (size_t i = 0; i < dims.size(); ++i) {
    AM_CHECK(dims[i] >= 0, Fault::kShape, "dim {} of a shape is negative: {}", i, dims[i]);
    dims_[i] = dims[i];
  }
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t d : dims()) n *= d;
  return n;
}

int64_t Shape::rows() const {
  int64_t n = 1;
  for (int i = 0; i + 1 < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(dims(), other.dims());
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[static_cast<size_t>(i)]);
  return text + "]";
}

}  // namespace automodel

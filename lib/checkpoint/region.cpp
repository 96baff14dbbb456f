#include "checkpoint/region.h"

#include <algorithm>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace automodel::checkpoint {
namespace {

int64_t product(const std::vector<int64_t>& dims, size_t from = 0) {
  int64_t n = 1;
  for (size_t i = from; i < dims.size(); ++i) n *= dims[i];
  return n;
}

struct Bounds {
  std::vector<int64_t> start, extent;
  int64_t begin, end;
};

void check_kept(const Region& region) {
  auto dim = static_cast<size_t>(region.kept_dim);
  bool sound =
      region.box_start.empty() && region.box_extent.empty() && !region.stored_transposed && dim < region.shape.size();
  int64_t at = 0;
  for (const Interval& interval : region.kept) {
    sound = sound && at <= interval.begin && interval.begin <= interval.end && interval.end <= region.shape[dim];
    at = interval.end;
  }
  AM_CHECK(sound, Fault::kBug, "'{}': the ranges of dim {} do not lie inside {}", region.name, dim,
           shape_text(region.shape));
}

Bounds bounds_of(const Region& region) {
  Bounds b{region.box_start, region.box_extent, region.begin, region.end};
  if (b.start.empty() && b.extent.empty()) {
    b.start.assign(region.shape.size(), 0);
    b.extent = region.shape;
    if (!region.kept.empty()) {
      check_kept(region);
      int64_t& extent = b.extent[static_cast<size_t>(region.kept_dim)];
      extent = 0;
      for (const Interval& interval : region.kept) extent += interval.size();
    }
  }
  uint64_t bytes = 0;
  bool inside = b.start.size() == region.shape.size() && b.extent.size() == region.shape.size() &&
                byte_size(region.shape, DType::kF64, bytes);
  for (size_t i = 0; inside && i < region.shape.size(); ++i)
    inside = b.start[i] >= 0 && b.extent[i] >= 0 && b.start[i] <= region.shape[i] - b.extent[i];
  AM_CHECK(inside, Fault::kBug, "'{}': the box at {} of extents {} does not lie inside {}", region.name,
           shape_text(b.start), shape_text(b.extent), shape_text(region.shape));
  int64_t count = product(b.extent);
  if (b.end == -1) b.end = count;
  AM_CHECK(0 <= b.begin && b.begin <= b.end && b.end <= count, Fault::kBug,
           "'{}': elements {} to {} do not lie inside a box of {}", region.name, b.begin, b.end, count);
  AM_CHECK(!region.stored_transposed || region.shape.size() == 2, Fault::kBug,
           "'{}': only matrices are stored transposed, this has shape {}", region.name, shape_text(region.shape));
  return b;
}

// Where a dim of the tensor continues what is element `index` of the box there, and for how many.
std::pair<int64_t, int64_t> place_in(const Region& region, const Bounds& b, size_t dim, int64_t index) {
  if (region.kept.empty() || dim != static_cast<size_t>(region.kept_dim))
    return {b.start[dim] + index, b.extent[dim] - index};
  for (const Interval& interval : region.kept) {
    if (index < interval.size()) return {interval.begin + index, interval.size() - index};
    index -= interval.size();
  }
  return {region.shape[dim], 0};
}

// Position in the tensor of element (outer, 0) of a box, where `outer` counts over the first `dims` extents.
int64_t position(const Region& region, const Bounds& b, int64_t outer, size_t dims) {
  int64_t place = 0, stride = 1;
  for (size_t i = region.shape.size(); i-- > 0;) {
    int64_t index = 0;
    if (i < dims) {
      index = outer % b.extent[i];
      outer /= b.extent[i];
    }
    if (i != dims) place += place_in(region, b, i, index).first * stride;
    stride *= region.shape[i];
  }
  return place;
}

std::vector<Piece> runs_of(const Region& region, const Bounds& b, int64_t max_run) {
  // Dims from `first` on are whole, but for the first of them: together they are contiguous in file and memory.
  size_t first = region.shape.size();
  while (first > 0 && (first == region.shape.size() || b.extent[first] == region.shape[first])) --first;
  int64_t inner = product(b.extent, first), step = first < b.extent.size() ? product(b.extent, first + 1) : 1;
  std::vector<Piece> pieces;
  for (int64_t at = b.begin; at < b.end;) {
    int64_t outer = at / inner, within = at % inner;
    auto [index, ahead] =
        first < b.extent.size() ? place_in(region, b, first, within / step) : std::pair<int64_t, int64_t>{0, 1};
    int64_t count = std::min({b.end - at, ahead * step - within % step, max_run});
    int64_t file = position(region, b, outer, first) + index * step + within % step;
    pieces.push_back({.file = file, .memory = at - b.begin, .rows = count});
    at += count;
  }
  return pieces;
}

std::vector<Piece> rectangles_of(const Region& region, const Bounds& b, int64_t max_rows) {
  int64_t width = b.extent[1], rows_total = region.shape[0];
  std::vector<Piece> pieces;
  for (int64_t at = b.begin; at < b.end;) {
    int64_t row = at / width, col = at % width;
    bool part = col != 0 || b.end - at < width;
    int64_t rows = part ? 1 : std::min(max_rows, (b.end - at) / width);
    int64_t cols = part ? std::min(width - col, b.end - at) : width;
    pieces.push_back({.file = (b.start[1] + col) * rows_total + b.start[0] + row,
                      .memory = at - b.begin,
                      .rows = rows,
                      .cols = cols,
                      .file_stride = rows_total,
                      .memory_stride = width});
    at += part ? cols : rows * width;
  }
  return pieces;
}

}  // namespace

std::vector<int64_t> stored_shape(const Region& region) {
  auto shape = region.shape;
  if (region.stored_transposed) std::ranges::reverse(shape);
  return shape;
}

int64_t count_of(const Region& region) {
  Bounds b = bounds_of(region);
  return b.end - b.begin;
}

std::vector<Piece> pieces_of(const Region& region, int64_t max_run, int64_t max_rows) {
  Bounds b = bounds_of(region);
  return region.stored_transposed ? rectangles_of(region, b, max_rows) : runs_of(region, b, max_run);
}

}  // namespace automodel::checkpoint

// Which elements of a global tensor a rank holds: a range of a box. It covers a whole tensor, a tensor-parallel box, a
// flat piece of a sharded data-parallel unit, and a flat piece of a box, all without knowing of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/interval.h"

namespace automodel::checkpoint {

struct Region {
  std::string name;            // as stored
  std::vector<int64_t> shape;  // global, as the model has it
  // The box inside `shape`; both empty: the whole tensor.
  std::vector<int64_t> box_start = {};
  std::vector<int64_t> box_extent = {};
  // One dim of the box may consist of several ranges of the tensor's: `kept`, in ascending order; box_start and
  // box_extent are then empty and other dims whole. Not together with stored_transposed.
  std::vector<Interval> kept = {};
  int kept_dim = 0;
  // Elements [begin, end) of the box in row-major order; end -1: to the end of the box. In memory they lie densely.
  int64_t begin = 0;
  int64_t end = -1;
  // The file holds the transpose of the model's matrix (GPT-2's projections). Two dims only.
  bool stored_transposed = false;
};

// The shape the file has: `shape`, or its reverse when stored transposed.
std::vector<int64_t> stored_shape(const Region& region);

// Number of elements of the region. Throws Error(kBug) when the box or the range does not lie inside the tensor.
int64_t count_of(const Region& region);

// A rectangle of a region: element (r, c) lies at `file + c * file_stride + r` of the stored tensor and at
// `memory + r * memory_stride + c` of the dense memory, both counted in elements. A contiguous run is one column.
struct Piece {
  int64_t file = 0;
  int64_t memory = 0;
  int64_t rows = 0;
  int64_t cols = 1;
  int64_t file_stride = 0;
  int64_t memory_stride = 1;
};

// Cuts a region into pieces: runs of at most `max_run` elements, or, when stored transposed, rectangles of at most
// `max_rows` rows.
std::vector<Piece> pieces_of(const Region& region, int64_t max_run, int64_t max_rows);

}  // namespace automodel::checkpoint

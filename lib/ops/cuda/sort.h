// A stable counting sort on the device, for sums and places whose order must not depend on which thread comes first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace automodel::ops::cuda {

// Items 0 .. count with keys; the bin of an item is (key >> shift) & mask, below `bins`; a negative key has no bin.
// Outputs may be nullptr.
struct SortPass {
  const int32_t* keys = nullptr;
  const int32_t* values = nullptr;  // nullptr: an item's value is its number
  int64_t count = 0;
  int shift = 0;
  int32_t mask = 0x7fffffff;
  int64_t bins = 0;
  int32_t* sorted_keys = nullptr;    // in the order of the bins, within a bin in order
  int32_t* sorted_values = nullptr;  // likewise
  int32_t* places = nullptr;         // where each item went; -1: it has no bin
  int32_t* totals = nullptr;         // [bins]: items of each
};

// int32 numbers of working memory; the last of them becomes the number of items that have a bin, when there are items.
int64_t sort_pass_size(int64_t count, int64_t bins);
void sort_pass(const SortPass& pass, int32_t* working);

}  // namespace automodel::ops::cuda

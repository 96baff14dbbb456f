// Rows of a table by id, and their gradient. For the gradient the tokens are sorted by id, stably; then one block sums
// the rows of an id in the order of the tokens, so no two blocks write one number.
#include <bit>

#include "ops/cuda/kernel.h"
#include "ops/cuda/sort.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

template <class T>
struct Pick {
  T* y;
  const int32_t* ids;
  const T* table;
  int64_t first, table_rows, width;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    int64_t at = ids[row] - first;
    if (at >= 0 && at < table_rows)
      copy_chunk<N>(y + row * width + col, table + at * width + col);
    else
      store<N>(y + row * width + col, {});
  }
};

// The row of the table that each token is of; table_rows when it is of none, which comes last in the order.
struct KeyOf {
  int32_t* keys;
  const int32_t* ids;
  int64_t first, table_rows;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      int64_t at = ids[i + j] - first;
      keys[i + j] = static_cast<int32_t>(at >= 0 && at < table_rows ? at : table_rows);
    }
  }
};

struct Sorted {
  const int32_t* keys;
  const int32_t* tokens;
  int64_t count;
};

constexpr int kAtOnce = 8;  // rows on their way

template <class T>
__global__ void __launch_bounds__(kMostThreads)
    sum_by_key(float* dtable, const T* dy, Sorted sorted, int64_t table_rows, int64_t width) {
  int64_t col = blockIdx.y * int64_t{blockDim.x} + threadIdx.x;
  for (int64_t begin = blockIdx.x; begin < sorted.count; begin += gridDim.x) {
    int32_t key = sorted.keys[begin];
    if (key >= table_rows || (begin > 0 && sorted.keys[begin - 1] == key) || col >= width) continue;
    float sum = dtable[key * width + col];
    for (int64_t at = begin; at < sorted.count && sorted.keys[at] == key; at += kAtOnce) {
      float x[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        x[j] = at + j < sorted.count && sorted.keys[at + j] == key ? widen(dy[sorted.tokens[at + j] * width + col]) : 0;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) sum += x[j];
    }
    dtable[key * width + col] = sum;
  }
}

}  // namespace

void embedding_forward(const Tensor& y, const Tensor& ids, const Tensor& table, int64_t first) {
  int64_t width = table.cols();
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    each_row<kPack<T>>(ids.numel(), width, aligned_16({y.raw(), table.raw()}),
                       Pick<T>{ptr<T>(y), ptr<int32_t>(ids), ptr<T>(table), first, table.rows(), width});
  });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids, int64_t first, bool accumulate) {
  int64_t tokens = ids.numel(), rows = dtable.rows(), width = dtable.cols();
  if (!accumulate) set_zero(dtable.raw(), dtable.bytes());
  if (tokens == 0 || rows == 0 || width == 0) return;
  constexpr int64_t kBins = 256;
  int64_t working = sort_pass_size(tokens, kBins);
  auto* memory = static_cast<int32_t*>(scratch(static_cast<size_t>(working + 4 * tokens) * sizeof(int32_t)));
  int32_t* keys = memory + working;
  int32_t* other_keys = keys + tokens;
  int32_t* values = other_keys + tokens;
  int32_t* other_values = values + tokens;
  each<1>(tokens, false, KeyOf{keys, ptr<int32_t>(ids), first, rows});
  int bits = std::bit_width(static_cast<uint64_t>(rows));
  for (int shift = 0; shift < bits; shift += 8) {
    sort_pass({.keys = keys,
               .values = shift == 0 ? nullptr : values,
               .count = tokens,
               .shift = shift,
               .mask = kBins - 1,
               .bins = kBins,
               .sorted_keys = other_keys,
               .sorted_values = other_values},
              memory);
    std::swap(keys, other_keys);
    std::swap(values, other_values);
  }
  with_type(dy, [&](auto tag) {
    using T = decltype(tag);
    int64_t threads = threads_for(smaller(width, 256));
    Grid grid{dim3(extent(smaller(tokens, 1 << 16)), extent(divide_up(width, threads))), dim3(extent(threads))};
    launch(sum_by_key<T>, grid, ptr<float>(dtable), ptr<T>(dy), Sorted{keys, values, tokens}, rows, width);
  });
}

}  // namespace automodel::ops::cuda

// Attention of one new position over keys and values kept from before. A block takes a stretch of slots of one query
// head; a second kernel puts the softmaxes of the stretches together in the order of the slots.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

constexpr int64_t kStretch = 256;  // slots
constexpr int kThreads = 128;

struct Shape {
  int64_t heads, kv_heads, head_dim, width;
  int64_t used, slots, stretches;
  float scale;
};

// partials [row, head, stretch, head_dim + 2]: highest score, sum of weights, sum of weights times values.
AM_DEVICE float* partial_of(float* partials, const Shape& s, int64_t row_head, int64_t stretch) {
  return partials + (row_head * s.stretches + stretch) * (s.head_dim + 2);
}

template <class T>
__global__ void stretch_kernel(float* partials, const T* qkv, const T* keys, const T* values, Shape s) {
  __shared__ float scores[kStretch];
  int64_t stretch = blockIdx.x, row_head = blockIdx.y * int64_t{gridDim.z} + blockIdx.z;
  int64_t row = row_head / s.heads, head = row_head % s.heads, kv = head / (s.heads / s.kv_heads);
  int64_t first = stretch * kStretch, count = min(kStretch, s.used - first);
  const T* query = qkv + row * s.width + head * s.head_dim;
  int64_t from = ((row * s.kv_heads + kv) * s.slots + first) * s.head_dim;
  for (int64_t i = warp_index(); i < count; i += kThreads / kWarpSize) {
    const T* key = keys + from + i * s.head_dim;
    float sum = 0;
    for (int64_t c = lane_index(); c < s.head_dim; c += kWarpSize) sum += widen(query[c]) * widen(key[c]);
    sum = warp_reduce(sum);
    if (lane_index() == 0) scores[i] = sum * s.scale;
  }
  __syncthreads();
  float highest = -__builtin_inff(), total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) highest = scores[i] > highest ? scores[i] : highest;
  highest = block_reduce(highest, Larger{});
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    scores[i] = expf(scores[i] - highest);
    total += scores[i];
  }
  total = block_reduce(total);  // a barrier: all weights are there
  float* out = partial_of(partials, s, row_head, stretch);
  if (threadIdx.x == 0) out[0] = highest, out[1] = total;
  for (int64_t c = threadIdx.x; c < s.head_dim; c += kThreads) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += scores[i] * widen(values[from + i * s.head_dim + c]);
    out[2 + c] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) finish_kernel(T* out, float* partials, Shape s, int64_t units) {
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    float highest = -__builtin_inff(), total = 0;
    for (int64_t i = 0; i < s.stretches; ++i) {
      float h = partial_of(partials, s, unit, i)[0];
      highest = h > highest ? h : highest;
    }
    for (int64_t i = 0; i < s.stretches; ++i) {
      const float* p = partial_of(partials, s, unit, i);
      total += p[1] * expf(p[0] - highest);
    }
    for (int64_t c = threadIdx.x; c < s.head_dim; c += blockDim.x) {
      float sum = 0;
      for (int64_t i = 0; i < s.stretches; ++i) {
        const float* p = partial_of(partials, s, unit, i);
        sum += p[2 + c] * expf(p[0] - highest);
      }
      out[unit * s.head_dim + c] = narrow<T>(sum / total);
    }
  }
}

// Rows of keys and values to their slots; `row` counts kept positions of all sequences.
template <class T>
struct Keep {
  T* keys;
  T* values;
  const T* qkv;
  int64_t heads, kv_heads, head_dim, slots, count, skipped, first;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    int64_t kept = count - skipped, sequence = row / kept, i = skipped + row % kept;
    int64_t kv = col / head_dim, c = col % head_dim;
    const T* from = qkv + (sequence * count + i) * (heads + 2 * kv_heads) * head_dim + heads * head_dim + col;
    int64_t to = ((sequence * kv_heads + kv) * slots + (first + i) % slots) * head_dim + c;
    copy_chunk<N>(keys + to, from);
    copy_chunk<N>(values + to, from + kv_heads * head_dim);
  }
};

}  // namespace

void cache_write(const Tensor& keys, const Tensor& values, const Tensor& qkv, const HeadLayout& layout, int64_t first) {
  int64_t rows = keys.size(0) / layout.kv_heads, slots = keys.size(1);
  int64_t count = rows == 0 ? 0 : qkv.rows() / rows, skipped = count > slots ? count - slots : 0;
  if (count == 0) return;
  with_type(qkv, [&](auto tag) {
    using T = decltype(tag);
    bool aligned = aligned_16({keys.raw(), values.raw(), qkv.raw()}) && layout.head_dim % kPack<T> == 0;
    each_row<kPack<T>>(rows * (count - skipped), layout.kv_heads * layout.head_dim, aligned,
                       Keep<T>{ptr<T>(keys), ptr<T>(values), ptr<T>(qkv), layout.heads, layout.kv_heads,
                               layout.head_dim, slots, count, skipped, first});
  });
}

void attention_decode(const Tensor& out, const Tensor& qkv, const Tensor& keys, const Tensor& values,
                      const HeadLayout& layout, int64_t used, float scale) {
  Shape s{layout.heads, layout.kv_heads, layout.head_dim,           layout.width(),
          used,         keys.size(1),    divide_up(used, kStretch), scale};
  int64_t units = qkv.rows() * layout.heads;
  if (units == 0) return;
  size_t bytes = static_cast<size_t>(units * s.stretches * (s.head_dim + 2)) * sizeof(float);
  auto* partials = static_cast<float*>(scratch(bytes));
  with_type(qkv, [&](auto tag) {
    using T = decltype(tag);
    Grid grid{dim3(extent(s.stretches), extent(qkv.rows()), extent(layout.heads)), dim3(kThreads)};
    launch(stretch_kernel<T>, grid, partials, ptr<T>(qkv), ptr<T>(keys), ptr<T>(values), s);
    launch(finish_kernel<T>, blocks_for(units, threads_for(layout.head_dim)), ptr<T>(out), partials, s, units);
  });
}

}  // namespace automodel::ops::cuda

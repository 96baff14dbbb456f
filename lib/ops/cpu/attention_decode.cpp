// Attention of one new position over keys and values kept from before. Tasks are stretches of slots of one key/value
// head, which serve all query heads that read it; their softmaxes are put together in the order of the slots, so the
// result does not depend on the number of threads.
#include <cmath>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kStretch = 256;  // slots
constexpr int kColumns = 4;        // vectors of a head summed at once

// What a stretch of slots gives one query head: sum of weights e^(score - highest), and of weights times values.
struct Partial {
  float* highest;
  float* total;
  float* sum;  // [head_dim]
};

template <class T>
struct Decoding {
  T* out;
  const T* qkv;
  const T* keys;
  const T* values;
  const HeadLayout& layout;
  int64_t used, slots, stretches;
  float scale;
  float* partials;

  int64_t group() const { return layout.heads / layout.kv_heads; }
  int64_t partial_size() const { return layout.head_dim + 2; }
  Partial partial(int64_t row, int64_t head, int64_t stretch) const {
    float* at = partials + ((row * layout.heads + head) * stretches + stretch) * partial_size();
    return {at, at + 1, at + 2};
  }

  // scores[i] = the score of slot i of `count`; returns the highest.
  float score(float* scores, const T* query, const T* key, int64_t count) const {
    float highest = -INFINITY;
    for (int64_t i = 0; i < count; ++i, key += layout.head_dim) {
      VecF sum{};
      for_vectors(0, layout.head_dim, [&](int64_t c, int64_t n) { sum += load_n(query + c, n) * load_n(key + c, n); });
      scores[i] = sum_lanes(sum) * scale;
      highest = scores[i] > highest ? scores[i] : highest;
    }
    return highest;
  }

  static float weigh(float* scores, int64_t count, float highest) {
    VecF total{};
    for_vectors(0, count, [&](int64_t i, int64_t n) {
      VecF weight = exp(load_n(scores + i, n, -INFINITY) - highest);
      total += weight;
      store_n(scores + i, weight, n);
    });
    return sum_lanes(total);
  }

  void add_values(float* to, const float* weights, const T* value, int64_t count) const {
    for (int64_t c = 0; c < layout.head_dim; c += kColumns * kLanes) {
      VecF sum[kColumns] = {};
      int64_t left = layout.head_dim - c;
      for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < kColumns; ++v)
          if (v * kLanes < left)
            sum[v] += load_n(value + i * layout.head_dim + c + v * kLanes, left - v * kLanes) * weights[i];
      for (int v = 0; v < kColumns; ++v)
        if (v * kLanes < left) store_n(to + c + v * kLanes, sum[v], left - v * kLanes);
    }
  }

  void stretch(int64_t row, int64_t kv, int64_t index) const {
    int64_t d = layout.head_dim, first = index * kStretch, count = used - first < kStretch ? used - first : kStretch;
    int64_t from = ((row * layout.kv_heads + kv) * slots + first) * d;
    auto* scores = static_cast<float*>(scratch(ScratchSlot::kAttention, kStretch * sizeof(float)));
    for (int64_t head = kv * group(); head < (kv + 1) * group(); ++head) {
      Partial p = partial(row, head, index);
      *p.highest = score(scores, qkv + row * layout.width() + head * d, keys + from, count);
      *p.total = weigh(scores, count, *p.highest);
      add_values(p.sum, scores, values + from, count);
    }
  }

  void finish(int64_t row, int64_t head) const {
    float highest = -INFINITY, total = 0;
    for (int64_t s = 0; s < stretches; ++s) {
      float h = *partial(row, head, s).highest;
      highest = h > highest ? h : highest;
    }
    auto share = [&](int64_t s) { return exp(all(*partial(row, head, s).highest - highest))[0]; };
    for (int64_t s = 0; s < stretches; ++s) total += *partial(row, head, s).total * share(s);
    for_vectors(0, layout.head_dim, [&](int64_t c, int64_t n) {
      VecF sum{};
      for (int64_t s = 0; s < stretches; ++s) sum += load_n(partial(row, head, s).sum + c, n) * share(s);
      store_n(out + (row * layout.heads + head) * layout.head_dim + c, sum / total, n);
    });
  }
};

}  // namespace

void cache_write(const Tensor& keys, const Tensor& values, const Tensor& qkv, const HeadLayout& layout, int64_t first) {
  int64_t rows = keys.size(0) / layout.kv_heads, slots = keys.size(1), d = layout.head_dim;
  int64_t count = rows == 0 ? 0 : qkv.rows() / rows, skipped = count > slots ? count - slots : 0,
          kept = count - skipped;
  with_type(qkv, [&](auto tag) {
    using T = decltype(tag);
    for_rows(rows * kept, 2 * layout.kv_heads * d, [&](int64_t task) {
      int64_t row = task / kept, i = skipped + task % kept;
      const T* from = ptr<T>(qkv) + (row * count + i) * layout.width() + layout.heads * d;
      for (int64_t kv = 0; kv < layout.kv_heads; ++kv) {
        int64_t to = ((row * layout.kv_heads + kv) * slots + (first + i) % slots) * d;
        std::memcpy(ptr<T>(keys) + to, from + kv * d, d * sizeof(T));
        std::memcpy(ptr<T>(values) + to, from + (layout.kv_heads + kv) * d, d * sizeof(T));
      }
    });
  });
}

void attention_decode(const Tensor& out, const Tensor& qkv, const Tensor& keys, const Tensor& values,
                      const HeadLayout& layout, int64_t used, float scale) {
  int64_t rows = qkv.rows(), stretches = (used + kStretch - 1) / kStretch;
  int64_t size = rows * layout.heads * stretches * (layout.head_dim + 2);
  auto* partials = static_cast<float*>(scratch(ScratchSlot::kRows, static_cast<size_t>(size + 1) * sizeof(float)));
  with_type(qkv, [&](auto tag) {
    using T = decltype(tag);
    Decoding<T> d{ptr<T>(out), ptr<T>(qkv),  ptr<T>(keys), ptr<T>(values), layout,
                  used,        keys.size(1), stretches,    scale,          partials};
    int64_t units = rows * layout.kv_heads;
#pragma omp parallel if (rows * layout.heads * used * layout.head_dim >= 2 * kGrain)
    {
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < units * stretches; ++task)
        d.stretch(task / stretches / layout.kv_heads, task / stretches % layout.kv_heads, task % stretches);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows * layout.heads; ++i) d.finish(i / layout.heads, i % layout.heads);
    }
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

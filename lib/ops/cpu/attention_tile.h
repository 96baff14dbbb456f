// Tiles of attention: which keys a tile of queries sees, and moving rows between tensors and scratch.
//
// Lanes are queries. Scores are kept as S^T [key][query], outputs as O^T [head_dim][query], so that the maximum, the
// sum and every rescaling of the softmax are plain vector operations, and keys and values are used in the layout they
// have in memory, whatever the head dimension. Only the queries (and output gradients) are transposed, once per tile.
#pragma once

#include "ops/cpu/attention_product.h"
#include "ops/cpu/philox.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA::attention {

inline constexpr int kTileVectors = kTile / kLanes;
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

using HeadTile = float[kTile * kHeadStride];   // [row][head_dim]
using LaneTile = float[kTile * kTile];         // [key][query]
using HeadLanes = float[kMaxHeadDim * kTile];  // [head_dim][query]

// Queries [first, first + count) of a row of the batch. Keys are counted from the first that the call has.
struct Queries {
  int64_t first = 0;
  int64_t place = 0;  // the key that query `first` stands at; may be negative or beyond the last key
  int64_t row = 0;    // of the batch
  int count = 0;
  int vectors = 0;          // of lanes that hold queries; lanes beyond count repeat the last one's bounds
  int64_t first_key = 0;    // of those that a query here sees, rounded down to a multiple of 16
  int64_t end_key = 0;      // behind the last of them; none is seen when it is at most first_key
  int32_t see_from[kTile];  // per lane
};

// A range of lanes of a tile and the keys [begin, end) of the tile that one of them sees.
struct Block {
  int vector = 0;
  int columns = 0;
  int begin = 0;
  int end = 0;
  bool masked = false;  // some lane does not see some of these keys
};

// Keys [first, first + count), seen by a tile of queries.
struct Keys {
  int64_t first = 0;
  int count = 0;
  bool masked = false;
  int block_count = 0;
  Block blocks[kTileVectors];
};

inline int64_t round_up(int64_t x, int64_t unit) {
  return (x + unit - 1) / unit * unit;
}
inline int64_t tiles(int64_t sequence) {
  return (sequence + kTile - 1) / kTile;
}

inline int64_t key_count(const AttentionArgs& args) {
  return args.part.keys > 0 ? args.part.keys : args.sequence;
}
// The key that query 0 stands at.
inline int64_t shift(const AttentionArgs& args) {
  return args.part.first_query - args.part.first_key;
}
// Rows of a tensor of queries, and of keys, from one row of the batch to the next.
inline int64_t query_rows(const AttentionArgs& args) {
  return args.part.query_rows > 0 ? args.part.query_rows : args.sequence;
}
inline int64_t key_rows(const AttentionArgs& args) {
  return args.part.key_rows > 0 ? args.part.key_rows : key_count(args);
}

// Tile `index` of the queries of batch row `row`.
inline void set_queries(Queries& q, const AttentionArgs& args, int64_t row, int64_t index) {
  q.first = index * kTile;
  q.place = q.first + shift(args);
  q.row = row;
  q.count = static_cast<int>(args.sequence - q.first < kTile ? args.sequence - q.first : kTile);
  q.vectors = (q.count + kLanes - 1) / kLanes;
  const int32_t* starts = args.document_start == nullptr ? nullptr
                                                         : args.document_start->data<int32_t>() +
                                                               row * args.document_start->row_stride() + q.first;
  for (int lane = 0; lane < kTile; ++lane) {
    int used = lane < q.count ? lane : q.count - 1;
    int64_t from = starts == nullptr ? 0 : starts[used] - args.part.first_key;
    if (args.window > 0 && q.place + used - args.window + 1 > from) from = q.place + used - args.window + 1;
    q.see_from[lane] = static_cast<int32_t>(from < 0 ? 0 : from);
  }
  q.first_key = q.see_from[0] / 16 * 16;
  q.end_key = round_up(q.place + q.count, kRows);
  if (q.end_key > key_count(args)) q.end_key = key_count(args);
}

// The first tile of keys that `q` sees, if it sees any.
inline int64_t first_key_tile(const Queries& q) {
  return q.first_key / kTile;
}
// Whether `q` sees a key of tile `tile`.
inline bool sees_tile(const Queries& q, int64_t tile) {
  return tile >= first_key_tile(q) && tile * kTile < q.end_key && q.first_key < q.end_key;
}

// Key tile `index`, as far as q sees it, which it must. Its start differs from a multiple of kTile by a multiple of 16,
// so that blocks end at whole groups of kRows keys or at the last key.
inline void set_keys(Keys& k, const Queries& q, int64_t index) {
  auto clamp = [](int64_t x, int64_t high) { return static_cast<int>(x < 0 ? 0 : x > high ? high : x); };
  k.first = index * kTile > q.first_key ? index * kTile : q.first_key;
  int64_t end = index * kTile + kTile < q.end_key ? index * kTile + kTile : q.end_key;
  k.count = static_cast<int>(end - k.first);
  k.masked = end - 1 > q.place || k.first < q.see_from[kTile - 1];
  k.block_count = 0;
  for (int v = 0; v < q.vectors;) {
    Block& b = k.blocks[k.block_count++];
    b.vector = v;
    b.columns = next_columns(q.vectors - v);
    b.begin = 0;
    b.end = k.count;
    b.masked = false;
    if (k.masked) {
      // Narrower blocks, to follow the edge of the mask.
      b.columns = q.vectors - v < 2 ? 1 : 2;
      int first = v * kLanes, last = (v + b.columns) * kLanes - 1;
      b.begin = clamp((q.see_from[first] - k.first) / kRows * kRows, k.count);
      b.end = clamp(round_up(q.place + last + 1 - k.first, kRows), k.count);
      if (b.end < b.begin) b.end = b.begin;
      b.masked = k.first + b.end - 1 > q.place + first || k.first + b.begin < q.see_from[last];
    }
    v += b.columns;
  }
}

// All ones in the lanes of vector `v` whose query sees key `key`.
inline VecI sees(const Queries& q, int v, int64_t key) {
  VecI from, lane;
  std::memcpy(&from, q.see_from + v * kLanes, sizeof from);
  for (int j = 0; j < kLanes; ++j) lane[j] = v * kLanes + j;
  VecI p = VecI{} + static_cast<int32_t>(key);
  return (p >= from) & (p <= lane + static_cast<int32_t>(q.place));
}

// Dropout of the weights of one vector of queries of a head, asked for in ascending order of the keys.
class Dropout {
 public:
  Dropout(const AttentionArgs& args, const Queries& q, int v, int64_t head)
      : keeper_(args.dropout), key_(args.dropout.key), first_key_(args.part.first_key) {
    auto sample = static_cast<uint64_t>(args.dropout.samples->data<int64_t>()[q.row]);
    VecU lane{};
    for (uint32_t j = 0; j < kLanes; ++j) lane[j] = j;
    query_ = lane + static_cast<uint32_t>(args.part.first_query + q.first + v * kLanes);
    sample_ = static_cast<uint32_t>(sample);
    head_ = static_cast<uint32_t>(static_cast<uint64_t>(args.part.first_head + head) + ((sample >> 32) << 16));
  }
  // What the weights for key `key` are multiplied by. Asked for every key from the first one on.
  AM_INLINE VecF factor(int64_t key) {
    int64_t position = first_key_ + key;
    if (position % 4 == 0 || !begun_) {
      words_[0] = query_;
      words_[1] = VecU{} + static_cast<uint32_t>(position / 4);
      words_[2] = VecU{} + sample_;
      words_[3] = VecU{} + head_;
      philox(words_, key_);
      begun_ = true;
    }
    return keeper_.factor(words_[position % 4]);
  }

 private:
  Keeper keeper_;
  uint64_t key_;
  int64_t first_key_;
  bool begun_ = false;
  uint32_t sample_, head_;
  VecU query_;
  VecU words_[4];
};

struct NoDropout {
  NoDropout(const AttentionArgs&, const Queries&, int, int64_t) {}
};

// Words that hold n numbers of type T.
template <class T>
inline constexpr int64_t word_count(int64_t n) {
  return (n + kWord<T> - 1) / kWord<T>;
}

// `count` rows of head_dim numbers into a tile, as words along the row: [row][word].
template <class T>
inline void read_rows(float* tile, const T* from, int64_t stride, int64_t count, int64_t head_dim) {
  constexpr int64_t kStep = kLanes * kWord<T>;
  for (int64_t r = 0; r < count; ++r, tile += kHeadStride, from += stride) {
    float* to = tile;
    for (int64_t c = 0; c < head_dim; c += kStep, to += kLanes) {
      if constexpr (kWord<T> == 1) {
        store(to, load_n(from + c, head_dim - c));
      } else {
        VecF words{};
        if (head_dim - c >= kStep)
          std::memcpy(&words, from + c, sizeof words);
        else
          std::memcpy(&words, from + c, (head_dim - c) * sizeof(T));
        store(to, words);
      }
    }
  }
}

// The same with words across rows: [row / numbers in a word][head_dim]. A missing last row counts as 0.
template <class T>
inline void read_row_pairs(float* tile, const T* from, int64_t stride, int64_t count, int64_t head_dim) {
  if constexpr (kWord<T> == 1) return read_rows(tile, from, stride, count, head_dim);
  for (int64_t r = 0; r < count; r += 2, tile += kHeadStride, from += 2 * stride)
    for (int64_t c = 0; c < head_dim; c += kLanes) {
      VecU first = bits_as<VecU>(load_n(from + c, head_dim - c));
      VecU second = r + 1 < count ? bits_as<VecU>(load_n(from + stride + c, head_dim - c)) : VecU{};
      store(tile + c, bits_as<VecF>(first >> 16 | second));
    }
}

// Rows of a tile (or of scratch), each head_dim numbers, to be multiplied by `factor`.
struct Rows {
  const float* data;
  int64_t stride;
  int64_t count;
  int64_t head_dim;
  float factor = 1;
};

template <bool kAdd, class T>
inline void put_rows(T* to, int64_t stride, const Rows& from) {
  const float* row = from.data;
  for (int64_t r = 0; r < from.count; ++r, row += from.stride, to += stride)
    for (int64_t c = 0; c < from.head_dim; c += kLanes) {
      int64_t n = from.head_dim - c;
      VecF x = load(row + c) * all(from.factor);
      if constexpr (kAdd) x = load_n(to + c, n) + x;
      store_n(to + c, x, n);
    }
}

// A tensor that head vectors go to: f32, or the compute type of the call.
struct Target {
  void* data;
  int64_t stride;  // elements from row to row
  bool f32;
  bool adds;

  Target(const Tensor& t, bool adds)
      : data(t.raw()), stride(t.row_stride()), f32(t.dtype() == DType::kF32), adds(adds) {}

  // To row `row` and those after it, from column `column` on. T: the compute type.
  template <class T>
  void put(int64_t row, int64_t column, const Rows& from) const {
    int64_t at = row * stride + column;
    if (f32)
      put_at(static_cast<float*>(data) + at, from);
    else
      put_at(static_cast<T*>(data) + at, from);
  }

 private:
  template <class U>
  void put_at(U* to, const Rows& from) const {
    if (adds)
      put_rows<true>(to, stride, from);
    else
      put_rows<false>(to, stride, from);
  }
};

template <class T>
inline float dot(const T* a, const T* b, int64_t n) {
  VecF sums{};
  for (int64_t c = 0; c < n; c += kLanes) sums += load_n(a + c, n - c) * load_n(b + c, n - c);
  return sum_lanes(sums);
}

// lanes[word][query] = rows[query][word]; lanes from `count` to a whole vector become 0.
inline void rows_to_lanes(float* lanes, const float* rows, int count, int64_t words) {
  for (int first = 0; first < count; first += kLanes)
    for (int64_t w = 0; w < words; w += kLanes) {
      VecF block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        block[i] = first + i < count ? load(rows + (first + i) * kHeadStride + w) : VecF{};
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(lanes + (w + i) * kTile + first, block[i]);
    }
}

// rows[query][d] = lanes[d][query] * factor[query]
inline void lanes_to_rows(float* rows, const float* lanes, int count, int64_t head_dim, const float* factor) {
  for (int first = 0; first < count; first += kLanes) {
    VecF f = load(factor + first);
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      VecF block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = load(lanes + (d + i) * kTile + first) * f;
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(rows + (first + i) * kHeadStride + d, block[i]);
    }
  }
}

// S^T (or dP^T) = keys (or values) times the lanes of the queries (or output gradients), in the blocks of `k`.
template <class T>
inline void multiply_scores(float* scores, const Keys& k, const float* keys, const float* lanes, int64_t head_dim) {
  for (int i = 0; i < k.block_count; ++i) {
    const Block& b = k.blocks[i];
    multiply<kWord<T>, kHeadStride, 1, kTile, Start::kZero>(b.columns,
                                                            {.rows = b.end - b.begin,
                                                             .depth = word_count<T>(head_dim),
                                                             .a = keys + b.begin * kHeadStride,
                                                             .b = lanes + b.vector * kLanes,
                                                             .c = scores + b.begin * kTile + b.vector * kLanes,
                                                             .c_stride = kTile});
  }
}

// sum[d][query] (+)= values[key][d] * weights[key][query] over the keys of block b; values in words across rows, and so
// are the weights, packed from the row of b.begin on.
template <class T, Start kStart>
inline void multiply_values(float* sum, const Block& b, const float* values, const float* weights, int64_t head_dim,
                            const float* rescale) {
  multiply<kWord<T>, 1, kHeadStride, kTile, kStart>(b.columns, {.rows = head_dim,
                                                                .depth = word_count<T>(b.end - b.begin),
                                                                .a = values + b.begin / kWord<T> * kHeadStride,
                                                                .b = weights + b.begin * kTile + b.vector * kLanes,
                                                                .c = sum + b.vector * kLanes,
                                                                .c_stride = kTile,
                                                                .rescale = rescale + b.vector * kLanes});
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA::attention

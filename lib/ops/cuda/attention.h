// What the attention kernels share: which keys a query sees, dropout of weights, tiles of bf16 rows in shared memory
// and the fragments of the tensor cores' matrices in them.
#pragma once

#include "ops/cuda/philox.h"

namespace automodel::ops::cuda::attention {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr float kInfinity = __builtin_inff();

// AttentionArgs for a kernel. Queries and keys are counted from the first that the call has.
struct Problem {
  int batch, heads, kv_heads, group, head_dim;
  int sequence, keys;  // of a row
  int shift;           // the key that query 0 stands at
  int window;          // 0: all
  int64_t query_rows, key_rows;
  const int32_t* starts;  // of documents, positions; or nullptr
  int64_t starts_stride;
  int64_t first_query, first_key, first_head;
  float scale;
  bool drops;
  Keeper keeper;
  const int64_t* samples;

  // The first key that query i of a row sees, if it sees any. Does not decrease with i.
  AM_DEVICE int see_from(int row, int i) const {
    int from = starts == nullptr ? 0 : static_cast<int>(starts[row * starts_stride + i] - first_key);
    if (window > 0) from = max(from, i + shift - window + 1);
    return max(from, 0);
  }
  // The last one; -1 or less when none.
  AM_DEVICE int see_to(int i) const { return min(i + shift, keys - 1); }
  AM_DEVICE int64_t query_row(int row, int i) const { return row * query_rows + i; }
  AM_DEVICE int64_t key_row(int row, int j) const { return row * key_rows + j; }
  AM_DEVICE int64_t lse_at(int row, int head, int i) const {
    return (static_cast<int64_t>(row) * heads + head) * sequence + i;
  }
};

inline Problem problem_of(const AttentionArgs& args) {
  const HeadLayout& layout = args.layout;
  const AttentionPart& part = args.part;
  Problem p{};
  p.batch = static_cast<int>(args.batch);
  p.heads = static_cast<int>(layout.heads);
  p.kv_heads = static_cast<int>(layout.kv_heads);
  p.group = static_cast<int>(layout.heads / layout.kv_heads);
  p.head_dim = static_cast<int>(layout.head_dim);
  p.sequence = static_cast<int>(args.sequence);
  p.keys = static_cast<int>(part.keys > 0 ? part.keys : args.sequence);
  p.shift = static_cast<int>(part.first_query - part.first_key);
  p.window = static_cast<int>(args.window);
  p.query_rows = part.query_rows > 0 ? part.query_rows : args.sequence;
  p.key_rows = part.key_rows > 0 ? part.key_rows : p.keys;
  if (args.document_start != nullptr) {
    p.starts = ptr<int32_t>(*args.document_start);
    p.starts_stride = args.document_start->row_stride();
  }
  p.first_query = part.first_query;
  p.first_key = part.first_key;
  p.first_head = part.first_head;
  p.scale = args.scale;
  p.drops = args.dropout.p > 0;
  if (p.drops) {
    p.keeper = Keeper(args.dropout);
    p.samples = ptr<int64_t>(*args.dropout.samples);
  }
  return p;
}

// Dropout of the weights of one head of one row of the batch.
class Drops {
 public:
  AM_DEVICE Drops(const Problem& p, int row, int head) : p_(&p) {
    auto sample = static_cast<uint64_t>(p.samples[row]);
    low_ = static_cast<uint32_t>(sample);
    high_ = static_cast<uint32_t>(static_cast<uint64_t>(p.first_head + head) + ((sample >> 32) << 16));
  }
  // What the weights of keys j and j + 1 for query i are multiplied by.
  AM_DEVICE void factors(int i, int j, float& first, float& second) const {
    int64_t key = p_->first_key + j;
    Words words = block(i, key / 4);
    int at = static_cast<int>(key % 4);
    first = p_->keeper.factor(pick(words, at));
    if (at == 3) words = block(i, key / 4 + 1);
    second = p_->keeper.factor(pick(words, (at + 1) % 4));
  }
  AM_DEVICE float factor(int i, int j) const {
    int64_t key = p_->first_key + j;
    return p_->keeper.factor(pick(block(i, key / 4), static_cast<int>(key % 4)));
  }

 private:
  AM_DEVICE Words block(int i, int64_t number) const {
    return philox({{static_cast<uint32_t>(p_->first_query + i), static_cast<uint32_t>(number), low_, high_}},
                  p_->keeper.key);
  }
  static AM_DEVICE uint32_t pick(const Words& words, int at) {
    return at < 2 ? (at == 0 ? words.w[0] : words.w[1]) : (at == 2 ? words.w[2] : words.w[3]);
  }

  const Problem* p_;
  uint32_t low_, high_;
};

// Heads of a matrix: the numbers of one head in row r are at data + r * stride.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  bool aligned;  // every row begins at a multiple of 16 bytes, and so does what follows it
};

template <class T>
Rows<T> rows_of(const Tensor& t, int64_t head_dim) {
  constexpr int kWidth = kPack<T>;
  return {ptr<T>(t), t.row_stride(), aligned_16({t.raw()}) && t.row_stride() % kWidth == 0 && head_dim % kWidth == 0};
}
template <class T>
AM_DEVICE Rows<T> head_of(Rows<T> rows, int64_t row, int column) {
  rows.data += row * rows.stride + column;
  return rows;
}

// A tensor that results go to.
struct Target {
  void* data;
  int64_t stride;
  bool f32;  // else bf16
  bool adds;
  bool pairs;  // two numbers from an even column of a head on may be written at once

  AM_DEVICE void put(int64_t row, int64_t column, float x) const {
    int64_t at = row * stride + column;
    if (f32) {
      float* to = static_cast<float*>(data) + at;
      *to = adds ? *to + x : x;
    } else {
      bf16* to = static_cast<bf16*>(data) + at;
      *to = round_bf16(adds ? widen(*to) + x : x);
    }
  }
  // Columns `column`, which is even in its head, and, with `both`, the next one.
  AM_DEVICE void put_pair(int64_t row, int64_t column, float first, float second, bool both) const {
    int64_t at = row * stride + column;
    if (!pairs) {
      put(row, column, first);
      if (both) put(row, column + 1, second);
    } else if (f32) {
      put_chunk(static_cast<float*>(data) + at, first, second);
    } else {
      put_chunk(static_cast<bf16*>(data) + at, first, second);
    }
  }
  AM_DEVICE float get_f32(int64_t row, int64_t column) const {
    return static_cast<const float*>(data)[row * stride + column];
  }

 private:
  template <class T>
  AM_DEVICE void put_chunk(T* to, float first, float second) const {
    float x[2] = {};
    if (adds) load(to, x);
    x[0] += first, x[1] += second;
    store(to, x);
  }
};

inline Target target_of(const Tensor& t, int64_t head_dim, bool adds = false) {
  bool pairs = reinterpret_cast<uintptr_t>(t.raw()) % (2 * size_of(t.dtype())) == 0 && t.row_stride() % 2 == 0 &&
               head_dim % 2 == 0;
  return {t.raw(), t.row_stride(), t.dtype() == DType::kF32, adds, pairs};
}

// A tile in shared memory: rows of kD bf16, whose chunks of 16 bytes change places with the row, so that eight rows of
// one column of chunks lie in different banks.
template <int kD>
AM_DEVICE int tile_offset(int row, int chunk) {
  return row * kD + (chunk ^ (row & 7)) * 8;
}

// Starts to read rows [0, count) of `from` into a tile of kRows; the rest, and columns from head_dim on, become 0.
// They are there after copy_async_wait and a barrier.
template <int kD, int kRows>
AM_DEVICE void load_tile(bf16* tile, const Rows<bf16>& from, int count, int head_dim) {
  constexpr int kChunks = kD / 8;
  for (int i = threadIdx.x; i < kRows * kChunks; i += blockDim.x) {
    int row = i / kChunks, chunk = i % kChunks, column = chunk * 8;
    bf16* to = tile + tile_offset<kD>(row, chunk);
    bool valid = row < count && column < head_dim;
    const bf16* at = valid ? from.data + row * from.stride + column : from.data;
    if (from.aligned) {
      copy_async_16(to, at, valid);
    } else {
      for (int e = 0; e < 8; ++e) to[e] = valid && column + e < head_dim ? at[e] : bf16{0};
    }
  }
}

// Rows row .. row + 15, columns 16 step .. 16 step + 15 as a first factor.
template <int kD>
AM_DEVICE void first_factor(uint32_t (&a)[4], const bf16* tile, int row, int step) {
  int lane = lane_index(), matrix = lane / 8;
  load_matrices(a, tile + tile_offset<kD>(row + matrix % 2 * 8 + lane % 8, 2 * step + matrix / 2));
}
// The same place as a second factor whose columns are the tile's rows: words 0, 1 for columns 0 .. 7 and 2, 3 for 8 ..
template <int kD>
AM_DEVICE void second_factor(uint32_t (&b)[4], const bf16* tile, int row, int step) {
  int lane = lane_index(), matrix = lane / 8;
  load_matrices(b, tile + tile_offset<kD>(row + matrix / 2 * 8 + lane % 8, 2 * step + matrix % 2));
}
// ... whose rows are the tile's rows row .. row + 15, its columns 16 step .. 16 step + 15.
template <int kD>
AM_DEVICE void second_factor_rows(uint32_t (&b)[4], const bf16* tile, int row, int step) {
  int lane = lane_index(), matrix = lane / 8;
  load_matrices_transposed(b, tile + tile_offset<kD>(row + matrix % 2 * 8 + lane % 8, 2 * step + matrix / 2));
}

// Sums of 16 x 16 numbers, in two parts of 8 columns, as a first factor in bf16.
AM_DEVICE void sums_as_factor(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_bf16(left[0], left[1]);
  a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]);
  a[3] = pack_bf16(right[2], right[3]);
}

// sums [16 x 8 kColumns] += rows of `a` from `a_row` on times the rows 0 .. 8 kColumns - 1 of `b`, over head_dim.
template <int kD, int kColumns>
AM_DEVICE void multiply_rows(float (&sums)[kColumns][4], const bf16* a, int a_row, const bf16* b, int head_dim) {
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    if (step * 16 >= head_dim) break;
    uint32_t x[4], y[4];
    first_factor<kD>(x, a, a_row, step);
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      second_factor<kD>(y, b, n * 8, step);
      multiply_tile(sums[n], x, y[0], y[1]);
      multiply_tile(sums[n + 1], x, y[2], y[3]);
    }
  }
}

// sums [16 x 8 kColumns] += weights [16 x 16 kSteps], as sums, times columns of the rows of `tile`: from 8 * column on.
template <int kD, int kColumns, int kSteps>
AM_DEVICE void add_rows(float (&sums)[kColumns][4], const float (&weights)[2 * kSteps][4], const bf16* tile,
                        int column) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t x[4], y[4];
    sums_as_factor(x, weights[2 * step], weights[2 * step + 1]);
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      second_factor_rows<kD>(y, tile, step * 16, (column + n) / 2);
      multiply_tile(sums[n], x, y[0], y[1]);
      multiply_tile(sums[n + 1], x, y[2], y[3]);
    }
  }
}

// f(width) with the smallest of 64, 128 and 256 that head_dim fits in, as a constant.
template <int kWidth>
struct Width {
  static constexpr int value = kWidth;
};
template <class F>
void with_width(int64_t head_dim, F&& f) {
  if (head_dim <= 64) return f(Width<64>{});
  if (head_dim <= 128) return f(Width<128>{});
  f(Width<256>{});
}

}  // namespace automodel::ops::cuda::attention

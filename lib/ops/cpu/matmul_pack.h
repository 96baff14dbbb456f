// Packing of operands into panels of words (matmul_tile.h).
#pragma once

#include "ops/cpu/matmul_tile.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

// Rows become columns, by log2(kLanes) rounds of interleaving row i with row i + kLanes / 2.
AM_INLINE void transpose(VecU (&rows)[kLanes]) {
  VecU low, high;
  for (int i = 0; i < kLanes / 2; ++i) {
    low[2 * i] = static_cast<uint32_t>(i);
    low[2 * i + 1] = static_cast<uint32_t>(i + kLanes);
    high[2 * i] = static_cast<uint32_t>(i + kLanes / 2);
    high[2 * i + 1] = static_cast<uint32_t>(i + kLanes / 2 + kLanes);
  }
#pragma GCC unroll 4
  for (int width = 1; width < kLanes; width *= 2) {
    VecU next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + kLanes / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kLanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// The first n of a vector of 16-bit numbers, the rest 0.
AM_INLINE VecH load_halves(const bf16* p, int64_t n) {
#if defined(__AVX512F__)
  return bits_as<VecH>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1u), p));
#else
  VecH v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i].bits;
  return v;
#endif
}

// One vector of words of a row, from k onwards; `left` numbers of K are left, words beyond are 0.
template <bool kPairs, class T>
AM_INLINE VecU words_along_k(const T* p, int64_t left) {
  constexpr int64_t kNumbers = kPairs ? 2 * kLanes : kLanes;
  if (left <= 0) return VecU{};
  if constexpr (kPairs) {
    VecU v{};
    if (left >= kNumbers)
      std::memcpy(&v, p, sizeof(v));
    else
      std::memcpy(&v, p, static_cast<size_t>(left) * sizeof(T));
    return v;
  } else {
    return bits_as<VecU>(load_n(p, left));
  }
}

// One vector of words across lanes: the numbers p[0 ... lanes) and, for pairs, those of the next k, at p + stride.
template <bool kPairs, class T>
AM_INLINE VecU words_across(const T* p, int64_t stride, int64_t lanes, bool has_second) {
  if constexpr (kPairs) {
    int64_t n = lanes < kLanes ? lanes : kLanes;
    VecH first = load_halves(p, n), second = has_second ? load_halves(p + stride, n) : VecH{};
    return to_words(first) | (to_words(second) << 16);
  } else {
    return bits_as<VecU>(load_n(p, lanes));
  }
}

struct PanelSource {
  int64_t stride = 0;   // elements from one row of memory to the next
  bool along_k = true;  // memory rows run along K (one per lane); otherwise across the lanes (one per k)
};

// Asks for memory that will be packed soon, a few lines at a time, into the second cache.
class Prefetcher {
 public:
  Prefetcher() = default;
  Prefetcher(const void* begin, int64_t rows, int64_t stride_bytes, int64_t row_bytes)
      : row_(static_cast<const char*>(begin)), rows_(rows), stride_(stride_bytes), row_bytes_(row_bytes) {}

  int64_t lines() const { return rows_ * ((row_bytes_ + kLine - 1) / kLine); }
  AM_INLINE void run(int64_t lines) {
    for (; lines > 0 && rows_ > 0; --lines) {
      __builtin_prefetch(row_ + offset_, 0, 2);
      offset_ += kLine;
      if (offset_ < row_bytes_) continue;
      offset_ = 0;
      row_ += stride_;
      --rows_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* row_ = nullptr;
  int64_t rows_ = 0, stride_ = 0, row_bytes_ = 0, offset_ = 0;
};

// Packs rows of a (or columns of b) over `numbers` of K into panels of kWidth lanes: to[panel][word][kWidth], where the
// lanes beyond the last of `lanes` are 0. Panels lie stride(words) apart, never a multiple of a page, which would put
// the rows of many panels that are written together into one set of a cache. The work is cut into parts() parts that
// may run in any order; each reads memory in the order in which it lies.
template <bool kPairs, int kWidth, class T>
class Packer {
 public:
  Packer(uint32_t* to, const T* from, PanelSource source, int64_t lanes, int64_t numbers)
      : to_(to),
        from_(from),
        source_(source),
        lanes_(lanes),
        numbers_(numbers),
        words_((numbers + kPerWord - 1) / kPerWord) {}

  int64_t parts() const { return source_.along_k ? (lanes_ + kWidth - 1) / kWidth : (words_ + kPart - 1) / kPart; }

  void run(int64_t part) const {
    if (source_.along_k) return pack_along_k(part * kWidth);
    int64_t begin = part * kPart, end = begin + kPart < words_ ? begin + kPart : words_;
    for (int64_t w = begin; w < end; ++w)
      for (int64_t lane = 0; lane < lanes_; lane += kWidth) pack_across(w, w + 1 == end, lane);
  }

  // Of the memory that is read.
  Prefetcher prefetcher() const {
    auto size = static_cast<int64_t>(sizeof(T));
    return {from_, source_.along_k ? lanes_ : numbers_, source_.stride * size,
            (source_.along_k ? numbers_ : lanes_) * size};
  }

  static constexpr int64_t stride(int64_t words) { return words * kWidth + 32; }

 private:
  static constexpr int64_t kPerWord = kPairs ? 2 : 1;
  static constexpr int64_t kPart = 16;  // words, where memory lies across the lanes

  uint32_t* at(int64_t panel_lane, int64_t word) const {
    return to_ + panel_lane / kWidth * stride(words_) + word * kWidth;
  }

  // One word of every lane of a panel. A whole vector may spill over the end of the row, into the next one, which is
  // written later; but not beyond the last row of a part.
  AM_INLINE void pack_across(int64_t w, bool last, int64_t panel_lane) const {
    const T* p = from_ + w * kPerWord * source_.stride + panel_lane;
    int64_t left = lanes_ - panel_lane;
    uint32_t* to = at(panel_lane, w);
    bool has_second = 2 * w + 1 < numbers_;
#pragma GCC unroll 2
    for (int64_t offset = 0; offset < kWidth; offset += kLanes) {
      // Lanes of the next panel do no harm: they are overwritten or never read.
      VecU v{};
      if (left - offset >= kLanes && has_second)
        v = words_across<kPairs>(p + offset, source_.stride, kLanes, true);
      else if (offset < left)
        v = words_across<kPairs>(p + offset, source_.stride, left - offset, has_second);
      if (offset + kLanes <= kWidth || !last)
        std::memcpy(to + offset, &v, sizeof(v));
      else
        store_some(reinterpret_cast<float*>(to + offset), bits_as<VecF>(v), kWidth - offset);
    }
  }

  // A panel is one part, and memory behind it is free (stride()), so whole vectors may spill at its end too.
  AM_INLINE void pack_along_k(int64_t panel_lane) const {
    int64_t whole = numbers_ / kPerWord / kLanes * kLanes, w = 0;
    if (lanes_ - panel_lane >= kWidth)
      for (; w < whole; w += kLanes) pack_block<true>(panel_lane, w);
    for (; w < words_; w += kLanes) pack_block<false>(panel_lane, w);
  }

  // kLanes words of each row of a panel; kWhole: none of them lies beyond the last row or word.
  template <bool kWhole>
  AM_INLINE void pack_block(int64_t panel_lane, int64_t w) const {
    int64_t left = lanes_ - panel_lane, count = words_ - w;
    const T* from = from_ + panel_lane * source_.stride + w * kPerWord;
#pragma GCC unroll 2
    for (int64_t offset = 0; offset < kWidth; offset += kLanes) {
      VecU rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const T* row = from + (offset + i) * source_.stride;
        if (offset + i >= kWidth)
          rows[i] = VecU{};
        else if constexpr (kWhole)
          rows[i] = words_along_k<kPairs>(row, kLanes * kPerWord);
        else
          rows[i] = offset + i < left ? words_along_k<kPairs>(row, numbers_ - w * kPerWord) : VecU{};
      }
      transpose(rows);
      uint32_t* to = at(panel_lane, w) + offset;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        if (kWhole || i < count) std::memcpy(to + i * kWidth, &rows[i], sizeof(VecU));
    }
  }

  uint32_t* to_;
  const T* from_;
  PanelSource source_;
  int64_t lanes_, numbers_, words_;
};

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

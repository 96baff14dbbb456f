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

// One vector of words of a row, from k onwards; `left` numbers of K are left, words beyond are 0.
template <bool kPairs, class T>
AM_INLINE VecU words_along_k(const T* p, int64_t left) {
  constexpr int64_t kNumbers = kPairs ? 2 * kLanes : kLanes;
  if constexpr (kPairs) {
    VecU v{};
    if (left >= kNumbers)
      std::memcpy(&v, p, sizeof(v));
    else if (left > 0)
      std::memcpy(&v, p, static_cast<size_t>(left) * sizeof(T));
    return v;
  } else {
    return bits_as<VecU>(left >= kNumbers ? load(p) : left > 0 ? load_some(p, left) : VecF{});
  }
}

// One vector of words across lanes: the numbers p[0 ... lanes) and, for pairs, those of the next k, at p + stride.
template <bool kPairs, class T>
AM_INLINE VecU words_across(const T* p, int64_t stride, int64_t lanes, bool has_second) {
  if constexpr (kPairs) {
    VecH first{}, second{};
    size_t bytes = static_cast<size_t>(lanes < kLanes ? lanes : kLanes) * sizeof(T);
    if (lanes >= kLanes) {
      std::memcpy(&first, p, sizeof(first));
      if (has_second) std::memcpy(&second, p + stride, sizeof(second));
    } else {
      std::memcpy(&first, p, bytes);
      if (has_second) std::memcpy(&second, p + stride, bytes);
    }
    return __builtin_convertvector(first, VecU) | (__builtin_convertvector(second, VecU) << 16);
  } else {
    return bits_as<VecU>(load_n(p, lanes));
  }
}

struct PanelSource {
  int64_t stride = 0;   // elements from one row of memory to the next
  bool along_k = true;  // memory rows run along K (one per lane); otherwise across the lanes (one per k)
};

// Packs `lanes` rows of a (or columns of b), at most kWidth, over `numbers` of K into to[word][kWidth].
template <bool kPairs, int kWidth, class T>
void pack_panel(uint32_t* to, const T* from, PanelSource source, int64_t lanes, int64_t numbers) {
  constexpr int64_t kPerWord = kPairs ? 2 : 1;
  int64_t words = (numbers + kPerWord - 1) / kPerWord;
  // A vector store may spill over the end of a row of the panel, into the next row that is written later; never
  // beyond the last row, which may be another thread's.
  auto put = [&](int64_t word, int64_t lane, VecU v) {
    uint32_t* at = to + word * kWidth + lane;
    if (lane + kLanes <= kWidth || word + 1 < words)
      std::memcpy(at, &v, sizeof(v));
    else
      std::memcpy(at, &v, static_cast<size_t>(kWidth - lane) * sizeof(uint32_t));
  };
  if (!source.along_k) {
    for (int64_t w = 0; w < words; ++w) {
      const T* p = from + w * kPerWord * source.stride;
      for (int64_t lane = 0; lane < kWidth; lane += kLanes)
        put(w, lane,
            lane < lanes ? words_across<kPairs>(p + lane, source.stride, lanes - lane, 2 * w + 1 < numbers) : VecU{});
    }
    return;
  }
  for (int64_t w = 0; w < words; w += kLanes)
    for (int64_t lane = 0; lane < kWidth; lane += kLanes) {
      VecU rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        rows[i] = lane + i < lanes
                      ? words_along_k<kPairs>(from + (lane + i) * source.stride + w * kPerWord, numbers - w * kPerWord)
                      : VecU{};
      transpose(rows);
      int64_t count = words - w < kLanes ? words - w : kLanes;
      if (count == kLanes && (lane + kLanes <= kWidth || w + kLanes < words)) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) std::memcpy(to + (w + i) * kWidth + lane, &rows[i], sizeof(VecU));
      } else {
        for (int64_t i = 0; i < count; ++i) put(w + i, lane, rows[i]);
      }
    }
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// add, scale, cast.
#include <cstring>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {

void add(const Tensor& y, const Tensor& a, const Tensor& b) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    const T* left = ptr<T>(a);
    const T* right = ptr<T>(b);
    for_blocks(y.numel(), [&](int64_t begin, int64_t end) {
      for_vectors(begin, end,
                  [&](int64_t i, int64_t n) { store_n(to + i, load_n(left + i, n) + load_n(right + i, n), n); });
    });
  });
}

void scale(const Tensor& y, float s) {
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    for_blocks(y.numel(), [&](int64_t begin, int64_t end) {
      for_vectors(begin, end, [&](int64_t i, int64_t n) { store_n(to + i, load_n(to + i, n) * s, n); });
    });
  });
}

void cast(const Tensor& y, const Tensor& x) {
  if (y.dtype() == x.dtype()) {
    auto* to = ptr<char>(y);
    const auto* from = ptr<char>(x);
    if (to == from) return;
    for_blocks(static_cast<int64_t>(y.bytes()), [&](int64_t begin, int64_t end) {
      std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
    });
    return;
  }
  with_type(y, [&](auto to_tag) {
    with_type(x, [&](auto from_tag) {
      auto* to = ptr<decltype(to_tag)>(y);
      const auto* from = ptr<decltype(from_tag)>(x);
      for_blocks(y.numel(), [&](int64_t begin, int64_t end) {
        for_vectors(begin, end, [&](int64_t i, int64_t n) { store_n(to + i, load_n(from + i, n), n); });
      });
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Dropout of activations: a mask is never kept, the backward makes it again.
#include "ops/cpu/philox.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kGroup = 64;           // elements that share 16 blocks of Philox
constexpr int64_t kTaskElements = 4096;  // of one thread at a time

// Elements [begin, end) of a sample, which lie from y and x on.
template <class T>
void drop(T* y, const T* x, int64_t begin, int64_t end, int64_t sample, const DropoutArgs& args) {
  Keeper keeper(args);
  VecU lane{};
  for (uint32_t i = 0; i < kLanes; ++i) lane[i] = i;
  for (int64_t e = begin / kGroup * kGroup; e < end; e += kGroup)
    for (int64_t first = 0; first < 16; first += kLanes) {
      auto block = static_cast<uint64_t>(e / kGroup * 16 + first);
      VecU c[4] = {lane + static_cast<uint32_t>(block), VecU{} + static_cast<uint32_t>(block >> 32),
                   VecU{} + static_cast<uint32_t>(sample),
                   VecU{} + static_cast<uint32_t>(static_cast<uint64_t>(sample) >> 32)};
      philox(c, args.key);
#pragma GCC unroll 4
      for (int word = 0; word < 4; ++word) {
        int64_t at = e + 16 * word + first;
        VecF factor = keeper.factor(c[word]);
        if (at >= begin) {
          int64_t n = end - at, i = at - begin;
          if (n > 0) store_n(y + i, load_n(x + i, n) * factor, n);
        } else {
          for (int64_t i = begin; i < at + kLanes && i < end; ++i) {
            float kept = load_n(x + (i - begin), 1)[0] * factor[static_cast<int>(i - at)];
            store_n(y + (i - begin), VecF{} + kept, 1);
          }
        }
      }
    }
}

void drop_rows(const Tensor& y, const Tensor& x, const DropoutArgs& args) {
  const auto* places = ptr<int64_t>(*args.places);
  int64_t width = x.cols();
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    const T* from = ptr<T>(x);
    for_rows(x.rows(), width, [&](int64_t row) {
      int64_t sample = places[2 * row], place = places[2 * row + 1];
      if (place < 0) return;
      drop(to + row * width, from + row * width, place * width, (place + 1) * width, sample, args);
    });
  });
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, const DropoutArgs& args) {
  if (args.places != nullptr) return drop_rows(y, x, args);
  const auto* samples = ptr<int64_t>(*args.samples);
  int64_t batch = args.samples->numel();
  if (batch == 0) return;
  int64_t size = x.numel() / batch, tasks = (size + kTaskElements - 1) / kTaskElements;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    T* to = ptr<T>(y);
    const T* from = ptr<T>(x);
#pragma omp parallel for schedule(static) if (x.numel() >= kGrain)
    for (int64_t task = 0; task < batch * tasks; ++task) {
      int64_t row = task / tasks, begin = task % tasks * kTaskElements;
      int64_t end = begin + kTaskElements < size ? begin + kTaskElements : size;
      int64_t at = row * size + begin;
      drop(to + at, from + at, begin, end, samples[row], args);
    }
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

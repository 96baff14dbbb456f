// Dropout of activations: a mask is never kept, the backward makes it again.
#include "ops/cpu/philox.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kGroup = 64;           // elements that share 16 blocks of Philox
constexpr int64_t kTaskElements = 4096;  // of one thread at a time

struct Part {
  int64_t begin, end, size;  // elements of a sample, and how many it has
};

template <class T>
void drop(T* y, const T* x, const Part& part, int64_t sample, const DropoutArgs& args) {
  Keeper keeper(args);
  VecU lane{};
  for (uint32_t i = 0; i < kLanes; ++i) lane[i] = i;
  for (int64_t e = part.begin; e < part.end; e += kGroup)
    for (int64_t first = 0; first < 16; first += kLanes) {
      auto block = static_cast<uint64_t>(e / kGroup * 16 + first);
      VecU c[4] = {lane + static_cast<uint32_t>(block), VecU{} + static_cast<uint32_t>(block >> 32),
                   VecU{} + static_cast<uint32_t>(sample),
                   VecU{} + static_cast<uint32_t>(static_cast<uint64_t>(sample) >> 32)};
      philox(c, args.key);
#pragma GCC unroll 4
      for (int word = 0; word < 4; ++word) {
        int64_t i = e + 16 * word + first;
        if (i < part.size) store_n(y + i, load_n(x + i, part.size - i) * keeper.factor(c[word]), part.size - i);
      }
    }
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, const DropoutArgs& args) {
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
      drop(to + row * size, from + row * size, {begin, end, size}, samples[row], args);
    }
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Dropout of activations: a mask is never kept, the backward makes it again. A thread takes one block of Philox at a
// time, whose four words are for elements 16 apart in a group of 64: the threads of half a warp take a group.
#include "ops/cuda/philox.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

struct Work {
  int64_t parts;  // runs of elements, each of one sample
  int64_t size;   // elements of a part
  const int64_t* samples;
  const int64_t* places;  // or nullptr: a part is a whole sample
  Keeper keeper;
};

template <class T>
__global__ void drop(T* y, const T* x, Work work) {
  // Blocks of Philox that a part may touch, which need not begin at a whole group.
  int64_t blocks = (work.size / 64 + 2) * 16;
  int64_t all = gridDim.x * int64_t{blockDim.x};
  for (int64_t task = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; task < work.parts * blocks; task += all) {
    int64_t part = task / blocks;
    int64_t sample = work.places == nullptr ? work.samples[part] : work.places[2 * part];
    int64_t place = work.places == nullptr ? 0 : work.places[2 * part + 1];
    if (place < 0) continue;
    int64_t begin = place * work.size;  // of the part in its sample
    int64_t number = begin / 64 * 16 + task % blocks, first = number / 16 * 64 + number % 16;
    if (first >= begin + work.size) continue;
    auto n = static_cast<uint64_t>(number), s = static_cast<uint64_t>(sample);
    Words words = philox({{static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), static_cast<uint32_t>(s),
                           static_cast<uint32_t>(s >> 32)}},
                         work.keeper.key);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int64_t e = first + 16 * i - begin;
      if (e < 0 || e >= work.size) continue;
      int64_t at = part * work.size + e;
      y[at] = narrow<T>(widen(x[at]) * work.keeper.factor(words.w[i]));
    }
  }
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, const DropoutArgs& args) {
  Work work{};
  work.keeper = Keeper(args);
  if (args.places != nullptr) {
    work.parts = x.rows();
    work.size = x.cols();
    work.places = ptr<int64_t>(*args.places);
  } else {
    work.parts = args.samples->numel();
    work.size = work.parts == 0 ? 0 : x.numel() / work.parts;
    work.samples = ptr<int64_t>(*args.samples);
  }
  if (work.parts == 0 || work.size == 0) return;
  with_type(x, [&](auto tag) {
    using T = decltype(tag);
    launch(drop<T>, blocks_for(divide_up(work.parts * (work.size / 64 + 2) * 16, 256), 256), ptr<T>(y), ptr<T>(x),
           work);
  });
}

}  // namespace automodel::ops::cuda

// Works block by block, so that the partial results of a block stay in the first-level cache: the tree over the inputs
// is walked for 512 elements at a time and only the root touches `out`. Inputs of the accumulator's own type are read
// where they lie; bf16 is widened into a slot first.
#include "comm/reduce.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/error.h"

namespace automodel::comm {
namespace {

constexpr int64_t kBlock = 512;
constexpr int kSlots = 26;  // enough for 2^25 ranks
constexpr int64_t kParallelBytes = 1 << 18;

template <Reduce kOp, class T>
inline T combine(T a, T b) {
  if constexpr (kOp == Reduce::kSum) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
    } else {
      return a + b;
    }
  } else if constexpr (kOp == Reduce::kMax) {
    return (a > b || a != a) ? a : b;
  } else {
    return (a < b || a != a) ? a : b;
  }
}

template <class Storage>
using Accumulator = std::conditional_t<std::is_same_v<Storage, bf16>, float, Storage>;

template <class Storage>
inline Storage rounded(Accumulator<Storage> x) {
  if constexpr (std::is_same_v<Storage, bf16>)
    return to_bf16(x);
  else
    return x;
}

template <Reduce kOp, class Storage>
struct BlockTree {
  using Acc = Accumulator<Storage>;
  std::span<const void* const> inputs;
  int64_t begin;
  int64_t length;

  // The value of the subtree over inputs [low, high): written into `slots`, or the input itself. A left child uses its
  // parent's slot, a right child the next one.
  const Acc* subtree(size_t low, size_t high, Acc* slots) const {
    if (high - low == 1) return leaf(low, slots);
    const size_t middle = low + std::bit_floor(high - low - 1);
    const Acc* a = subtree(low, middle, slots);
    const Acc* b = subtree(middle, high, slots + kBlock);
#pragma GCC ivdep
    for (int64_t i = 0; i < length; ++i) slots[i] = combine<kOp>(a[i], b[i]);
    return slots;
  }

  const Acc* leaf(size_t k, Acc* slot) const {
    const Storage* in = static_cast<const Storage*>(inputs[k]) + begin;
    if constexpr (std::is_same_v<Storage, Acc>) {
      return in;
    } else {
      for (int64_t i = 0; i < length; ++i) slot[i] = to_float(in[i]);
      return slot;
    }
  }

  void root(void* out_data) const {
    alignas(64) Acc slots[kSlots * kBlock];
    Storage* out = static_cast<Storage*>(out_data) + begin;
    const size_t middle = std::bit_floor(inputs.size() - 1);
    const Acc* a = subtree(0, middle, slots);
    const Acc* b = subtree(middle, inputs.size(), slots + kBlock);
#pragma GCC ivdep
    for (int64_t i = 0; i < length; ++i) out[i] = rounded<Storage>(combine<kOp>(a[i], b[i]));
  }
};

template <Reduce kOp, class Storage>
void reduce_typed(void* out, std::span<const void* const> inputs, int64_t count) {
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const bool parallel = count * static_cast<int64_t>(sizeof(Storage) * inputs.size()) >= kParallelBytes;
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * kBlock;
    BlockTree<kOp, Storage>{inputs, begin, std::min(kBlock, count - begin)}.root(out);
  }
}

template <Reduce kOp>
void reduce_op(void* out, std::span<const void* const> inputs, int64_t count, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return reduce_typed<kOp, float>(out, inputs, count);
    case DType::kBF16:
      return reduce_typed<kOp, bf16>(out, inputs, count);
    case DType::kF64:
      return reduce_typed<kOp, double>(out, inputs, count);
    case DType::kI32:
      return reduce_typed<kOp, int32_t>(out, inputs, count);
    case DType::kI64:
      return reduce_typed<kOp, int64_t>(out, inputs, count);
    case DType::kU8:
      return reduce_typed<kOp, uint8_t>(out, inputs, count);
    default:
      fail(Fault::kBug, "tree_reduce: cannot reduce {}", automodel::name_of(dtype));
  }
}

}  // namespace

void tree_reduce(void* out, std::span<const void* const> inputs, int64_t count, DType dtype, Reduce op) {
  if (inputs.size() == 1) {
    if (out != inputs[0]) std::memcpy(out, inputs[0], static_cast<size_t>(count) * size_of(dtype));
    return;
  }
  switch (op) {
    case Reduce::kSum:
      return reduce_op<Reduce::kSum>(out, inputs, count, dtype);
    case Reduce::kMax:
      return reduce_op<Reduce::kMax>(out, inputs, count, dtype);
    case Reduce::kMin:
      return reduce_op<Reduce::kMin>(out, inputs, count, dtype);
  }
}

}  // namespace automodel::comm

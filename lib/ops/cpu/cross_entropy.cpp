// Softmax cross-entropy of rows of logits, and its gradient. A row is read from memory once: in blocks that fit the
// first cache, exponentials against the block's own maximum are summed and kept (over the logits themselves or, for
// bf16, in a row of fp32); a second pass over what is now in the second cache scales them to the softmax.
#include <cmath>

#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr int64_t kBlock = 1024;

struct RowSum {
  float max;
  double sum;  // of exp(x - max)
};

// With `kept`, kept[i] = exp(x[i] - maxima[i / kBlock]).
template <class T>
AM_INLINE RowSum sum_row(const T* x, int64_t width, float* kept, float* maxima) {
  RowSum row{-__builtin_inff(), 0};
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    int64_t end = begin + kBlock < width ? begin + kBlock : width;
    constexpr float kLowest = -3.40282347e38f;
    VecF top = all(kLowest);
    for_vectors(begin, end, [&](int64_t i, int64_t n) { top = max(top, load_n(x + i, n, kLowest)); });
    float block_max = max_lanes(top);
    VecF sums{};
    for_vectors(begin, end, [&](int64_t i, int64_t n) {
      VecF e = exp(load_n(x + i, n, -__builtin_inff()) - block_max);
      sums += e;
      if (kept != nullptr) store_n(kept + i, e, n);
    });
    if (maxima != nullptr) maxima[begin / kBlock] = block_max;
    float new_max = block_max > row.max ? block_max : row.max;
    row.sum = row.sum * std::exp(static_cast<double>(row.max - new_max)) +
              static_cast<double>(sum_lanes(sums)) * std::exp(static_cast<double>(block_max - new_max));
    row.max = new_max;
  }
  return row;
}

template <class In, class Out>
void rows(const Tensor& losses, const Tensor* dlogits, const Tensor& logits, const Tensor& labels, float grad_scale) {
  auto* loss = ptr<float>(losses);
  const auto* label = ptr<int32_t>(labels);
  const In* x = ptr<In>(logits);
  Out* dx = dlogits == nullptr ? nullptr : ptr<Out>(*dlogits);
  int64_t width = logits.cols(), blocks = (width + kBlock - 1) / kBlock;
  // The exponentials are kept in the output when it is fp32, else in scratch behind the block maxima.
  constexpr bool kInPlace = sizeof(Out) == sizeof(float);
  auto scratch_floats = static_cast<size_t>(blocks + (kInPlace ? 0 : width) + kLanes);

  for_rows(logits.rows(), width, [&](int64_t row) {
    const In* in = x + row * width;
    Out* out = dx == nullptr ? nullptr : dx + row * width;
    if (label[row] < 0) {
      loss[row] = 0;
      if (out != nullptr) std::memset(out, 0, static_cast<size_t>(width) * sizeof(Out));
      return;
    }
    float picked;
    if constexpr (sizeof(In) == sizeof(float))
      picked = in[label[row]];
    else
      picked = to_float(in[label[row]]);
    float* maxima = nullptr;
    float* kept = nullptr;
    if (out != nullptr) {
      maxima = static_cast<float*>(scratch(ScratchSlot::kRows, scratch_floats * sizeof(float)));
      if constexpr (kInPlace)
        kept = out;
      else
        kept = maxima + blocks;
    }
    RowSum total = sum_row(in, width, kept, maxima);
    loss[row] = static_cast<float>(std::log(total.sum) + static_cast<double>(total.max) - static_cast<double>(picked));
    if (out == nullptr) return;
    float at_label = 0;
    for (int64_t begin = 0; begin < width; begin += kBlock) {
      int64_t end = begin + kBlock < width ? begin + kBlock : width;
      auto factor = static_cast<float>(std::exp(static_cast<double>(maxima[begin / kBlock] - total.max)) / total.sum);
      if (label[row] >= begin && label[row] < end) at_label = kept[label[row]] * factor;
      VecF scale = all(factor * grad_scale);
      for_vectors(begin, end, [&](int64_t i, int64_t n) { store_n(out + i, load_n(kept + i, n) * scale, n); });
    }
    float corrected = (at_label - 1.0f) * grad_scale;
    if constexpr (kInPlace)
      out[label[row]] = corrected;
    else
      out[label[row]] = to_bf16(corrected);
  });
}

}  // namespace

void cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& labels,
                   bool gradient, float grad_scale) {
  with_type(logits, [&](auto in) {
    using In = decltype(in);
    if (!gradient) return rows<In, float>(losses, nullptr, logits, labels, grad_scale);
    with_type(dlogits, [&](auto out) { rows<In, decltype(out)>(losses, &dlogits, logits, labels, grad_scale); });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

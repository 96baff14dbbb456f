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

// What the parts of one row have together.
struct WholeRow {
  float max = -__builtin_inff();
  double sum = 0;
  float picked = 0;
};

WholeRow join_row(const Tensor& parts, int64_t row) {
  const auto* part = ptr<float>(parts) + row * 3;
  int64_t ranks = parts.size(0), stride = parts.size(1) * 3;
  WholeRow whole;
  for (int64_t r = 0; r < ranks; ++r) {
    if (part[r * stride] > whole.max) whole.max = part[r * stride];
    whole.picked += part[r * stride + 2];
  }
  for (int64_t r = 0; r < ranks; ++r)
    whole.sum += static_cast<double>(part[r * stride + 1]) *
                 std::exp(static_cast<double>(part[r * stride]) - static_cast<double>(whole.max));
  return whole;
}

template <class Out>
void join_rows(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& parts,
               const CrossEntropyArgs& args) {
  auto* loss = ptr<float>(losses);
  const auto* label = ptr<int32_t>(*args.labels);
  const auto* x = ptr<float>(logits);
  auto* dx = args.gradient ? ptr<Out>(dlogits) : nullptr;
  int64_t width = logits.cols();
  for_rows(logits.rows(), width, [&](int64_t row) {
    if (label[row] < 0) {
      loss[row] = 0;
      if (dx != nullptr) std::memset(dx + row * width, 0, static_cast<size_t>(width) * sizeof(Out));
      return;
    }
    WholeRow whole = join_row(parts, row);
    loss[row] =
        static_cast<float>(std::log(whole.sum) + static_cast<double>(whole.max) - static_cast<double>(whole.picked));
    if (dx == nullptr) return;
    const float* in = x + row * width;
    Out* out = dx + row * width;
    int64_t at = label[row] - args.first;
    float own = at >= 0 && at < width ? in[at] : 0;
    VecF scale = all(static_cast<float>(static_cast<double>(args.grad_scale) / whole.sum));
    for_vectors(0, width, [&](int64_t i, int64_t n) {
      store_n(out + i, exp(load_n(in + i, n, -__builtin_inff()) - whole.max) * scale, n);
    });
    if (at < 0 || at >= width) return;
    double p = std::exp(static_cast<double>(own) - static_cast<double>(whole.max)) / whole.sum;
    auto corrected = static_cast<float>((p - 1.0) * static_cast<double>(args.grad_scale));
    if constexpr (sizeof(Out) == sizeof(float))
      out[at] = corrected;
    else
      out[at] = to_bf16(corrected);
  });
}

}  // namespace

void cross_entropy_part(const Tensor& part, const Tensor& logits, const Tensor& labels, int64_t first) {
  auto* out = ptr<float>(part);
  const auto* label = ptr<int32_t>(labels);
  const auto* x = ptr<float>(logits);
  int64_t width = logits.cols();
  for_rows(logits.rows(), width, [&](int64_t row) {
    int64_t at = label[row] - first;
    if (label[row] < 0) {
      out[3 * row] = out[3 * row + 1] = out[3 * row + 2] = 0;
      return;
    }
    RowSum sum = sum_row(x + row * width, width, nullptr, nullptr);
    out[3 * row] = sum.max;
    out[3 * row + 1] = static_cast<float>(sum.sum);
    out[3 * row + 2] = at >= 0 && at < width ? x[row * width + at] : 0;
  });
}

void cross_entropy_join(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& parts,
                        const CrossEntropyArgs& args) {
  if (!args.gradient) return join_rows<float>(losses, dlogits, logits, parts, args);
  with_type(dlogits, [&](auto out) { join_rows<decltype(out)>(losses, dlogits, logits, parts, args); });
}

void cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& labels,
                   bool gradient, float grad_scale) {
  with_type(logits, [&](auto in) {
    using In = decltype(in);
    if (!gradient) return rows<In, float>(losses, nullptr, logits, labels, grad_scale);
    with_type(dlogits, [&](auto out) { rows<In, decltype(out)>(losses, &dlogits, logits, labels, grad_scale); });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

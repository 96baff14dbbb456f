// Mixtures of experts: the router's choice and its gradient, and the rows on their way to the experts and back.
//
// The choice needs no marks of what was taken: the next expert is the best of those that come after the last one in the
// order of (score, lower index first), so equal scores are never chosen twice. Counting and ordering are one pass over
// the copies each, in their order; sums over tokens that other ranks continue are fp64, so that where the tokens are
// cut hardly shows.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

void softmax_row(float* probs, const float* logits, int64_t n) {
  VecF most = all(-kInfinity);
  for_vectors(0, n, [&](int64_t i, int64_t count) { most = max(load_n(logits + i, count, -kInfinity), most); });
  float top = max_lanes(most);
  VecF sums{};
  for_vectors(0, n, [&](int64_t i, int64_t count) {
    VecF e = exp(load_n(logits + i, count, -kInfinity) - top);
    sums += e;
    store_n(probs + i, e, count);
  });
  float sum = sum_lanes(sums);
  for_vectors(0, n, [&](int64_t i, int64_t count) { store_n(probs + i, load_n(probs + i, count) / sum, count); });
}

// The k best scores in order; -1 where nothing is comparable (NaN).
void choose(int32_t* chosen, const float* probs, const float* bias, int64_t n, int64_t k) {
  float last = kInfinity;
  int64_t last_at = -1;
  for (int64_t j = 0; j < k; ++j) {
    float best = 0;
    int64_t best_at = -1;
    for (int64_t e = 0; e < n; ++e) {
      float score = bias == nullptr ? probs[e] : probs[e] + bias[e];
      bool left = score < last || (score == last && e > last_at);
      if (left && (best_at < 0 || score > best)) {
        best = score;
        best_at = e;
      }
    }
    chosen[j] = static_cast<int32_t>(best_at);
    if (best_at < 0) continue;
    last = best;
    last_at = best_at;
  }
}

float chosen_sum(const float* probs, const int32_t* chosen, int64_t k) {
  float sum = 0;
  for (int64_t j = 0; j < k; ++j)
    if (chosen[j] >= 0) sum += probs[chosen[j]];
  return sum;
}

bool is_token(int64_t row, const RouteArgs& args) {
  return row < args.tokens && (args.real == nullptr || ptr<int32_t>(*args.real)[row] != 0);
}

// The rows of a sample among the tokens of the call.
struct Rows {
  int64_t begin, end;
};
Rows rows_of(int64_t sample, const RouteArgs& args) {
  int64_t begin = sample * args.sequence - args.first, end = begin + args.sequence;
  return {begin < 0 ? 0 : begin, end < args.tokens ? end : args.tokens};
}

}  // namespace

void route_forward(const Tensor& probs, const Tensor& weights, const Tensor& experts, const Tensor& logits,
                   const RouteArgs& args) {
  int64_t n = probs.cols(), k = weights.cols();
  const float* bias = args.bias == nullptr ? nullptr : ptr<float>(*args.bias);
  for_rows(probs.rows(), n * (k + 4), [&](int64_t row) {
    float* p = ptr<float>(probs) + row * n;
    float* w = ptr<float>(weights) + row * k;
    int32_t* chosen = ptr<int32_t>(experts) + row * k;
    softmax_row(p, ptr<float>(logits) + row * n, n);
    if (!is_token(row, args)) {
      for (int64_t j = 0; j < k; ++j) chosen[j] = -1, w[j] = 0;
      return;
    }
    choose(chosen, p, bias, n, k);
    float divisor = args.renormalise ? chosen_sum(p, chosen, k) : 1;
    for (int64_t j = 0; j < k; ++j) w[j] = chosen[j] < 0 ? 0 : p[chosen[j]] / divisor;
  });
}

// With p = softmax(l): dl = p (dp - <p, dp>). With w_j = p_j / S, S the sum of the chosen: dp_j = (dw_j - <w, dw>) / S.
void route_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& dprobs, const Tensor& probs,
                    const Tensor& experts, const RouteArgs& args) {
  int64_t n = probs.cols(), k = experts.cols();
  const float* dw_all = dweights.defined() ? ptr<float>(dweights) : nullptr;
  const float* dp_all = dprobs.defined() ? ptr<float>(dprobs) : nullptr;
  for_rows(probs.rows(), n * 4, [&](int64_t row) {
    float* d = ptr<float>(dlogits) + row * n;
    const float* p = ptr<float>(probs) + row * n;
    const int32_t* chosen = ptr<int32_t>(experts) + row * k;
    bool token = is_token(row, args);
    const float* dp = token && dp_all != nullptr ? dp_all + (args.first + row) / args.sequence * n : nullptr;
    for_vectors(
        0, n, [&](int64_t i, int64_t count) { store_n(d + i, dp == nullptr ? VecF{} : load_n(dp + i, count), count); });
    if (token && dw_all != nullptr) {
      const float* dw = dw_all + row * k;
      float divisor = 1, mean = 0;
      if (args.renormalise) {
        divisor = chosen_sum(p, chosen, k);
        for (int64_t j = 0; j < k; ++j)
          if (chosen[j] >= 0) mean += dw[j] * (p[chosen[j]] / divisor);
      }
      for (int64_t j = 0; j < k; ++j)
        if (chosen[j] >= 0) d[chosen[j]] += (dw[j] - mean) / divisor;
    }
    VecF sums{};
    for_vectors(0, n, [&](int64_t i, int64_t count) { sums += load_n(d + i, count) * load_n(p + i, count); });
    float sum = sum_lanes(sums);
    for_vectors(0, n, [&](int64_t i, int64_t count) {
      store_n(d + i, load_n(p + i, count) * (load_n(d + i, count) - sum), count);
    });
  });
}

void route_sums(const Tensor& sums, const Tensor& probs, const Tensor& experts, const Tensor& labels,
                const RouteArgs& args) {
  int64_t n = probs.cols(), k = experts.cols();
  for_rows(sums.rows(), args.sequence * n, [&](int64_t sample) {
    double* chosen = ptr<double>(sums) + sample * sums.cols();
    double* total = chosen + n;
    for (int64_t i = 0; i < sums.cols(); ++i) chosen[i] = 0;
    Rows rows = rows_of(sample, args);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      if (!is_token(row, args)) continue;
      const int32_t* expert = ptr<int32_t>(experts) + row * k;
      const float* p = ptr<float>(probs) + row * n;
      for (int64_t j = 0; j < k; ++j)
        if (expert[j] >= 0) chosen[expert[j]] += 1;
      for (int64_t e = 0; e < n; ++e) total[e] += static_cast<double>(p[e]);
      total[n] += 1;
      if (ptr<int32_t>(labels)[row] >= 0) total[n + 1] += 1;
    }
  });
}

void balance_loss(const Tensor& losses, const Tensor& dprobs, const Tensor& sums, int64_t k, float scale) {
  int64_t n = dprobs.cols();
  for_rows(sums.rows(), n, [&](int64_t sample) {
    const double* chosen = ptr<double>(sums) + sample * sums.cols();
    const double* total = chosen + n;
    double tokens = total[n], labels = total[n + 1], loss = 0;
    float* d = ptr<float>(dprobs) + sample * n;
    for (int64_t e = 0; e < n; ++e) {
      double f = tokens == 0 ? 0 : chosen[e] * static_cast<double>(n) / (static_cast<double>(k) * tokens);
      loss += tokens == 0 ? 0 : f * total[e] / tokens;
      d[e] = tokens == 0 ? 0 : static_cast<float>(static_cast<double>(scale) * labels * f / tokens);
    }
    ptr<float>(losses)[sample] = static_cast<float>(loss);
  });
}

void order_copies(const Tensor& counts, const Tensor& slots, const Tensor& copies, const Tensor& tokens,
                  const Tensor& experts) {
  int64_t n = counts.numel(), all_copies = experts.numel(), k = experts.cols();
  const int32_t* expert = ptr<int32_t>(experts);
  int32_t* count = ptr<int32_t>(counts);
  auto* next = static_cast<int32_t*>(scratch(ScratchSlot::kRows, static_cast<size_t>(n + 1) * sizeof(int32_t)));
  for (int64_t e = 0; e < n; ++e) count[e] = 0;
  for (int64_t c = 0; c < all_copies; ++c)
    if (expert[c] >= 0) ++count[expert[c]];
  int32_t begin = 0;
  for (int64_t e = 0; e < n; ++e) {
    next[e] = begin;
    begin += count[e];
  }
  for (int64_t c = 0; c < all_copies; ++c) {
    int32_t slot = expert[c] < 0 ? -1 : next[expert[c]]++;
    ptr<int32_t>(slots)[c] = slot;
    if (slot < 0) continue;
    ptr<int32_t>(copies)[slot] = static_cast<int32_t>(c);
    ptr<int32_t>(tokens)[slot] = static_cast<int32_t>(c / k);
  }
  for (int64_t slot = begin; slot < all_copies; ++slot) ptr<int32_t>(copies)[slot] = ptr<int32_t>(tokens)[slot] = -1;
}

void sum_copies(const Tensor& y, const Tensor& x, const Tensor& slots, bool accumulate) {
  int64_t width = y.cols(), k = slots.cols();
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    for_rows(y.rows(), width * k, [&](int64_t row) {
      T* to = ptr<T>(y) + row * width;
      const int32_t* slot = ptr<int32_t>(slots) + row * k;
      for_vectors(0, width, [&](int64_t i, int64_t count) {
        VecF sum{};
        for (int64_t j = 0; j < k; ++j)
          if (slot[j] >= 0) sum += load_n(ptr<T>(x) + slot[j] * width + i, count);
        if (accumulate) sum += load_n(to + i, count);
        store_n(to + i, sum, count);
      });
    });
  });
}

void scale_rows(const Tensor& y, const Tensor& x, const Tensor& scales) {
  int64_t width = y.cols();
  with_type(y, [&](auto tag) {
    using T = decltype(tag);
    for_rows(y.rows(), width, [&](int64_t row) {
      float scale = ptr<float>(scales)[row];
      for_vectors(0, width, [&](int64_t i, int64_t count) {
        store_n(ptr<T>(y) + row * width + i, load_n(ptr<T>(x) + row * width + i, count) * scale, count);
      });
    });
  });
}

void row_products(const Tensor& out, const Tensor& a, const Tensor& b) {
  int64_t width = a.cols();
  with_type(a, [&](auto tag) {
    using T = decltype(tag);
    for_rows(a.rows(), width, [&](int64_t row) {
      VecF sums{};
      for_vectors(0, width, [&](int64_t i, int64_t count) {
        sums += load_n(ptr<T>(a) + row * width + i, count) * load_n(ptr<T>(b) + row * width + i, count);
      });
      ptr<float>(out)[row] = sum_lanes(sums);
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

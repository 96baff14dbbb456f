// The kernels of mixtures of experts against double precision and plain loops.
#include <numeric>
#include <set>

#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

struct Sizes {
  int64_t rows, experts, k;
};
const std::vector<Sizes> kSizes{{0, 4, 2}, {1, 1, 1}, {5, 3, 3}, {17, 8, 2}, {33, 17, 4}, {900, 130, 8}};

std::vector<double> softmax(const Array& logits, int64_t row) {
  std::vector<double> p;
  double most = -INFINITY, sum = 0;
  for (int64_t e = 0; e < logits.cols(); ++e) most = std::max(most, logits.get(row, e));
  for (int64_t e = 0; e < logits.cols(); ++e) sum += p.emplace_back(std::exp(logits.get(row, e) - most));
  for (double& x : p) x /= sum;
  return p;
}

// The k experts with the best scores, of equal ones the lower first.
std::vector<int> best(const std::vector<double>& scores, int64_t k) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return scores[size_t(a)] > scores[size_t(b)]; });
  order.resize(static_cast<size_t>(k));
  return order;
}

// Some padding among the tokens.
bool is_real(int64_t row) {
  return row % 5 != 2;
}
Array real_rows(int64_t rows) {
  Array real(rows, DType::kI32);
  real.fill([](int64_t row) { return is_real(row) ? 1 : 0; });
  return real;
}

void copy_values(Array& to, const Array& from) {
  to.set_all(from.values());
}

}  // namespace

TEST_CASE("a router takes the largest probabilities, the lower expert of equal ones, and none for padding") {
  for (const Sizes& s : kSizes)
    for (bool renormalise : {false, true})
      for (bool biased : {false, true}) {
        INFO(s.rows, " rows, ", s.experts, " experts, ", s.k, " of them");
        Array logits(s.rows, s.experts), bias(s.experts), probs(s.rows, s.experts), weights(s.rows, s.k);
        Array chosen(s.rows, s.k, DType::kI32);
        // Multiples of one half: many are equal.
        logits.random(1, 2).fill([&](int64_t i) { return std::round(2 * logits.get(i)) / 2; });
        bias.random(2, 0.1).fill([&](int64_t i) { return std::round(8 * bias.get(i)) / 8; });
        int64_t tokens = s.rows - s.rows / 4;
        Array real = real_rows(tokens);
        Tensor bias_tensor = bias.tensor(), real_tensor = real.tensor();
        RouteArgs args{.renormalise = renormalise,
                       .bias = biased ? &bias_tensor : nullptr,
                       .real = biased ? &real_tensor : nullptr,
                       .tokens = tokens};
        on_every_set(
            {&probs, &weights, &chosen},
            [&](const Kernels& k) {
              k.route_forward(probs.tensor(), weights.tensor(), chosen.tensor(), logits.tensor(), args);
            },
            [&] {
              for (int64_t row = 0; row < s.rows; ++row) {
                std::vector<double> p = softmax(logits, row), scores;
                for (int64_t e = 0; e < s.experts; ++e) {
                  CHECK(std::abs(probs.get(row, e) - p[size_t(e)]) < 2e-6);
                  // As the kernel sees them, in fp32.
                  scores.push_back(static_cast<float>(probs.get(row, e)) +
                                   (biased ? static_cast<float>(bias.get(e)) : 0.0f));
                }
                std::vector<int> want = best(scores, s.k);
                double sum = 0;
                for (int e : want) sum += p[size_t(e)];
                for (int64_t j = 0; j < s.k; ++j) {
                  bool token = row < tokens && (!biased || is_real(row));
                  CHECK(chosen.get(row, j) == (token ? want[size_t(j)] : -1));
                  double w = token ? p[size_t(want[size_t(j)])] / (renormalise ? sum : 1) : 0;
                  CHECK(std::abs(weights.get(row, j) - w) < 3e-6);
                }
              }
            });
      }
}

TEST_CASE("a row of NaN chooses nobody") {
  Array logits(1, 4), weights(1, 2), chosen(1, 2, DType::kI32);
  logits.fill([](int64_t) { return NAN; });
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    set.kernels->route_forward(logits.tensor(), weights.tensor(), chosen.tensor(), logits.tensor(), {.tokens = 1});
    CHECK(chosen.get(0) == -1);
    CHECK(chosen.get(1) == -1);
  }
}

TEST_CASE("the router's gradient is that of its softmax and its renormalised weights") {
  for (const Sizes& s : kSizes)
    for (bool renormalise : {false, true})
      for (int parts : {1, 2, 3}) {  // the weights' gradient, the probabilities', both
        INFO(s.rows, " rows, ", s.experts, " experts, ", s.k, " of them, parts ", parts);
        constexpr int64_t kSequence = 6, kFirst = 4;
        int64_t samples = (kFirst + s.rows) / kSequence + 1, tokens = s.rows - s.rows / 5;
        Array logits(s.rows, s.experts), probs(s.rows, s.experts), weights(s.rows, s.k), dlogits(s.rows, s.experts);
        Array chosen(s.rows, s.k, DType::kI32), dweights(s.rows, s.k), dprobs(samples, s.experts);
        logits.random(1), dweights.random(2), dprobs.random(3);
        Array real = real_rows(tokens);
        Tensor real_tensor = real.tensor();
        RouteArgs args{
            .renormalise = renormalise, .real = &real_tensor, .tokens = tokens, .first = kFirst, .sequence = kSequence};
        cpu::table().route_forward(probs.tensor(), weights.tensor(), chosen.tensor(), logits.tensor(), args);
        Tensor dw = parts & 1 ? dweights.tensor() : Tensor{}, dp = parts & 2 ? dprobs.tensor() : Tensor{};
        std::vector<double> want;
        for (int64_t row = 0; row < s.rows; ++row) {
          std::vector<double> p = softmax(logits, row), d(p.size(), 0);
          double sum = 1, mean = 0;
          if (row < tokens && is_real(row)) {
            if (renormalise) sum = 0;
            for (int64_t j = 0; renormalise && j < s.k; ++j) sum += p[size_t(chosen.get(row, j))];
            for (int64_t j = 0; renormalise && j < s.k; ++j)
              mean += dweights.get(row, j) * p[size_t(chosen.get(row, j))] / sum;
            for (int64_t j = 0; (parts & 1) && j < s.k; ++j)
              d[size_t(chosen.get(row, j))] += (dweights.get(row, j) - mean) / sum;
            for (int64_t e = 0; (parts & 2) && e < s.experts; ++e)
              d[size_t(e)] += dprobs.get((kFirst + row) / kSequence, e);
          }
          double product = 0;
          for (size_t e = 0; e < p.size(); ++e) product += p[e] * d[e];
          for (size_t e = 0; e < p.size(); ++e) want.push_back(p[e] * (d[e] - product));
        }
        on_every_set(
            {&dlogits},
            [&](const Kernels& k) {
              k.route_backward(dlogits.tensor(), dw, dp, probs.tensor(), chosen.tensor(), args);
            },
            [&] { CHECK(worst_error(dlogits, want, 1) < 10); });
      }
}

TEST_CASE("the sums of a router are those of each sample's tokens, and the balance loss is the paper's") {
  constexpr int64_t kExperts = 5, kChoices = 2, kSequence = 7, kSamples = 3, kFirst = 3, kRows = 13, kTokens = 12;
  Array probs(kRows, kExperts), labels(kRows, 1, DType::kI32), chosen(kRows, kChoices, DType::kI32);
  probs.random(1, 0.1, 0.5);
  labels.fill([](int64_t i) { return i % 3 == 0 ? -100 : i; });
  chosen.fill([](int64_t i) { return (i * i + i / 3) % kExperts; });
  Array sums(kSamples, 2 * kExperts + 2, DType::kF64), losses(kSamples), dprobs(kSamples, kExperts);
  Array real = real_rows(kTokens);
  Tensor real_tensor = real.tensor();
  RouteArgs args{.real = &real_tensor, .tokens = kTokens, .first = kFirst, .sequence = kSequence};
  std::vector<double> want(static_cast<size_t>(kSamples * sums.cols()), 0);
  for (int64_t row = 0; row < kTokens; ++row) {
    if (!is_real(row)) continue;
    double* sample = want.data() + (kFirst + row) / kSequence * sums.cols();
    for (int64_t j = 0; j < kChoices; ++j) sample[size_t(chosen.get(row, j))] += 1;
    for (int64_t e = 0; e < kExperts; ++e) sample[kExperts + e] += probs.get(row, e);
    sample[2 * kExperts] += 1;
    sample[2 * kExperts + 1] += labels.get(row) >= 0;
  }
  REQUIRE(want[size_t(2 * sums.cols() + 2 * kExperts)] == 1);  // the last sample has one token, none is without
  on_every_set(
      {&sums},
      [&](const Kernels& k) {
        k.route_sums(sums.tensor(), probs.tensor(), chosen.tensor(), labels.tensor().view({kRows}), args);
      },
      [&] { CHECK(worst_error(sums, want, 1) < 1); });

  Array exact = sums;
  exact.set_all(want);
  exact.set(1, 2 * kExperts, 0);  // a sample without tokens
  constexpr float kScale = 0.25f;
  on_every_set(
      {&losses, &dprobs},
      [&](const Kernels& k) { k.balance_loss(losses.tensor(), dprobs.tensor(), exact.tensor(), kChoices, kScale); },
      [&] {
        for (int64_t sample = 0; sample < kSamples; ++sample) {
          double tokens = exact.get(sample, 2 * kExperts), n_labels = exact.get(sample, 2 * kExperts + 1), loss = 0;
          for (int64_t e = 0; e < kExperts; ++e) {
            double f = tokens == 0 ? 0 : exact.get(sample, e) * kExperts / (kChoices * tokens);
            if (tokens > 0) loss += f * exact.get(sample, kExperts + e) / tokens;
            CHECK(std::abs(dprobs.get(sample, e) - (tokens == 0 ? 0 : kScale * n_labels * f / tokens)) < 1e-6);
          }
          CHECK(std::abs(losses.get(sample) - loss) < 1e-5);
        }
      });
}

TEST_CASE("perfect balance costs 1, everything for one expert costs the number of experts") {
  Array sums(2, 10, DType::kF64), losses(2), dprobs(2, 4);
  sums.set_all({6, 6, 6, 6, 3, 3, 3, 3, 12, 0, 12, 0, 0, 0, 12, 0, 0, 0, 12, 0});
  cpu::table().balance_loss(losses.tensor(), dprobs.tensor(), sums.tensor().narrow(0, 1), 2, 1);
  CHECK(losses.get(0) == doctest::Approx(1));
  cpu::table().balance_loss(losses.tensor(), dprobs.tensor(), sums.tensor(), 1, 1);
  CHECK(losses.get(1) == doctest::Approx(4));
}

TEST_CASE("copies are ordered by expert and keep their order within one") {
  for (const Sizes& s : kSizes) {
    INFO(s.rows, " rows, ", s.experts, " experts, ", s.k, " of them");
    int64_t all = s.rows * s.k;
    Array chosen(s.rows, s.k, DType::kI32), counts(s.experts, DType::kI32), slots(s.rows, s.k, DType::kI32);
    Array copies(all, DType::kI32), tokens(all, DType::kI32);
    Random random(3, 1);
    // Some copies go nowhere; the last expert gets none when there are several.
    int64_t most = std::max<int64_t>(1, s.experts - 1);
    chosen.fill([&](int64_t i) {
      return i % 11 == 5 ? -1.0
                         : static_cast<double>(random.below(static_cast<uint64_t>(most), static_cast<uint64_t>(i)));
    });
    on_every_set(
        {&counts, &slots, &copies, &tokens},
        [&](const Kernels& k) {
          k.order_copies(counts.tensor(), slots.tensor(), copies.tensor(), tokens.tensor(), chosen.tensor());
        },
        [&] {
          int64_t slot = 0;
          for (int64_t e = 0; e < s.experts; ++e) {
            int64_t before = slot;
            for (int64_t c = 0; c < all; ++c) {
              if (chosen.get(c) != e) continue;
              CHECK(slots.get(c) == slot);
              CHECK(copies.get(slot) == c);
              CHECK(tokens.get(slot) == c / s.k);
              ++slot;
            }
            CHECK(counts.get(e) == slot - before);
          }
          for (int64_t c = 0; c < all; ++c)
            if (chosen.get(c) < 0) CHECK(slots.get(c) == -1);
          for (; slot < all; ++slot) {
            CHECK(copies.get(slot) == -1);
            CHECK(tokens.get(slot) == -1);
          }
        });
  }
}

TEST_CASE("copies are summed in their order, with one rounding") {
  for (DType type : {DType::kF32, DType::kBF16})
    for (bool accumulate : {false, true})
      for (int64_t width : {1, 17, 70}) {
        constexpr int64_t kRows = 40, kChoices = 3;
        Array x(kRows * kChoices, width, type), y(kRows, width, type), before(kRows, width, type);
        Array slots(kRows, kChoices, DType::kI32);
        x.random(1), before.random(2);
        slots.fill([](int64_t i) { return i % 7 == 3 ? -1 : (i * 37) % (kRows * kChoices); });
        std::vector<double> want;
        for (int64_t row = 0; row < kRows; ++row)
          for (int64_t c = 0; c < width; ++c) {
            double sum = accumulate ? before.get(row, c) : 0;
            for (int64_t j = 0; j < kChoices; ++j)
              if (slots.get(row, j) >= 0) sum += x.get(static_cast<int64_t>(slots.get(row, j)), c);
            want.push_back(sum);
          }
        on_every_set(
            {&y}, [&] { copy_values(y, before); },
            [&](const Kernels& k) { k.sum_copies(y.tensor(), x.tensor(), slots.tensor(), accumulate); },
            [&] { CHECK(worst_error(y, want, 1) < 1.01); });
      }
}

TEST_CASE("rows are scaled, also in place, and multiplied with each other") {
  for (DType type : {DType::kF32, DType::kBF16})
    for (int64_t rows : {0, 1, 9, 800})
      for (int64_t width : {1, 33, 64}) {
        Array x(rows, width, type), y(rows, width, type), scales(rows), products(rows);
        x.random(1), scales.random(2);
        Array b(rows, width, type);
        b.random(3);
        std::vector<double> want, inner;
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          for (int64_t c = 0; c < width; ++c) {
            want.push_back(x.get(r, c) * scales.get(r));
            sum += x.get(r, c) * b.get(r, c);
          }
          inner.push_back(sum);
        }
        on_every_set(
            {&y, &products},
            [&](const Kernels& k) {
              k.scale_rows(y.tensor(), x.tensor(), scales.tensor());
              k.row_products(products.tensor(), x.tensor(), b.tensor());
            },
            [&] {
              CHECK(worst_error(y, want, 0) <= 1);
              CHECK(worst_error(products, inner, static_cast<double>(width)) < 1);
            });
        on_every_set(
            {&y}, [&] { copy_values(y, x); },
            [&](const Kernels& k) { k.scale_rows(y.tensor(), y.tensor(), scales.tensor()); },
            [&] { CHECK(worst_error(y, want, 0) <= 1); });
      }
}

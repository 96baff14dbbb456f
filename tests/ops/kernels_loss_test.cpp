// Softmax cross-entropy against double precision.
#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

void check_loss(int64_t rows, int64_t vocab, DType in, DType out, double scale) {
  INFO(rows, " x ", vocab, " of ", std::string(name_of(in)), " to ", std::string(name_of(out)), " scale ", scale);
  Array logits(rows, vocab, in), labels(rows, DType::kI32), losses(rows), dlogits(rows, vocab, out),
      own(rows, vocab, in);
  logits.random(1, scale, 2);
  labels.fill([&](int64_t i) { return i % 5 == 3 ? -100.0 : static_cast<double>((i * 31 + vocab - 1) % vocab); });
  constexpr float kGradScale = 0.25f;
  std::vector<double> loss_ref, gradient;
  for (int64_t r = 0; r < rows; ++r) {
    auto label = static_cast<int64_t>(labels.get(r));
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < vocab; ++i) top = std::max(top, logits.get(r, i));
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits.get(r, i) - top);
    loss_ref.push_back(label < 0 ? 0 : std::log(sum) + top - logits.get(r, label));
    for (int64_t i = 0; i < vocab; ++i)
      gradient.push_back(label < 0 ? 0 : kGradScale * (std::exp(logits.get(r, i) - top) / sum - (i == label ? 1 : 0)));
  }
  // Ten percent of a typical probability: small gradients count too.
  double floor = 0.1 / static_cast<double>(vocab);
  on_every_set(
      {&losses},
      [&](const Kernels& k) { k.cross_entropy(losses.tensor(), Tensor(), logits.tensor(), labels.tensor(), false, 1); },
      [&] { CHECK(worst_error(losses, loss_ref) < 1); });
  on_every_set(
      {&losses, &dlogits},
      [&](const Kernels& k) {
        k.cross_entropy(losses.tensor(), dlogits.tensor(), logits.tensor(), labels.tensor(), true, kGradScale);
      },
      [&] {
        CHECK(worst_error(losses, loss_ref) < 1);
        CHECK(worst_error(dlogits, gradient, floor) < 4);
      });
  on_every_set(
      {&losses, &own}, [&] { own.set_all(logits.values()); },
      [&](const Kernels& k) {
        k.cross_entropy(losses.tensor(), own.tensor(), own.tensor(), labels.tensor(), true, kGradScale);
      },
      [&] {
        CHECK(worst_error(losses, loss_ref) < 1);
        CHECK(worst_error(own, gradient, floor) < 4);
      });
}

}  // namespace

TEST_CASE("cross-entropy and its gradient for every pair of types, in place and not") {
  for (auto [in, out] : {std::pair(DType::kF32, DType::kF32),
                         {DType::kF32, DType::kBF16},
                         {DType::kBF16, DType::kBF16},
                         {DType::kBF16, DType::kF32}})
    for (int64_t vocab : {1, 3, 17, 33, 257, 1024, 1025, 5003})
      for (int64_t rows : {0, 1, 7}) check_loss(rows, vocab, in, out, 3);
  check_loss(33, 2050, DType::kF32, DType::kF32, 30);
}

TEST_CASE("cross-entropy survives huge logits, and masked ones have no probability") {
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    INFO("instruction set ", std::string(set.name));
    constexpr int64_t kVocab = 2500;
    std::vector<float> x(kVocab, -INFINITY), loss(1), d(kVocab);
    x[2000] = 1e30f;
    x[100] = -1e30f;
    std::vector<int32_t> label{2000};
    auto run = [&] {
      set.kernels->cross_entropy(Tensor::wrap(loss.data(), Shape{1}, DType::kF32),
                                 Tensor::wrap(d.data(), Shape{1, kVocab}, DType::kF32),
                                 Tensor::wrap(x.data(), Shape{1, kVocab}, DType::kF32),
                                 Tensor::wrap(label.data(), Shape{1}, DType::kI32), true, 1.0f);
    };
    run();
    CHECK(loss[0] == 0);
    CHECK(std::all_of(d.begin(), d.end(), [](float g) { return g == 0; }));
    x[7] = NAN;
    run();
    CHECK(std::isnan(loss[0]));
  }
}

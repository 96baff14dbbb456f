// Dropout of activations: the mask is the one that kernels.h defines, whatever the instruction set.
#include "core/rng.h"
#include "ops/kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

constexpr uint64_t kKey = 0xfedcba9876543210;

// What element e of a row with sample s is multiplied by, from the definition.
double factor(float p, int64_t sample, int64_t e) {
  auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  auto block = static_cast<uint64_t>(16 * (e / 64) + e % 16), s = static_cast<uint64_t>(sample);
  auto words = philox({low(block), high(block), low(s), high(s)}, {low(kKey), high(kKey)});
  double threshold = std::round(static_cast<double>(p) * 0x1p32);
  return words[static_cast<size_t>(e % 64 / 16)] < threshold ? 0 : 1 / (1 - threshold * 0x1p-32);
}

}  // namespace

TEST_CASE("dropout multiplies by the mask of its definition") {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (float p : {0.1f, 0.5f, 0.99f})
      for (int64_t width : {1, 3, 16, 17, 63, 64, 65, 1000, 9001}) {
        CAPTURE(width);
        std::vector<int64_t> samples{0, 7, (int64_t{5} << 32) + 7};
        auto rows = static_cast<int64_t>(samples.size());
        Array x(rows, width, dtype), y(rows, width, dtype);
        x.random(1);
        std::vector<double> want;
        for (int64_t i = 0; i < rows * width; ++i)
          want.push_back(x.get(i) * factor(p, samples[static_cast<size_t>(i / width)], i % width));
        Tensor sample_tensor = Tensor::wrap(samples.data(), {rows}, DType::kI64);
        on_every_set(
            {&y},
            [&](const Kernels& kernels) {
              kernels.dropout(y.tensor(), x.tensor(), {p, kKey, &sample_tensor});
            },
            [&] { CHECK(worst_error(y, want, 0) < 1); });
      }
}

TEST_CASE("dropout keeps the mean, drops its share, and differs between samples and keys") {
  constexpr int64_t kSize = 200000;
  std::vector<float> ones(kSize, 1.0f), y(kSize), other(kSize);
  auto run = [&](std::vector<float>& to, float p, uint64_t key, int64_t sample) {
    Tensor samples = Tensor::wrap(&sample, {1}, DType::kI64);
    cpu::table().dropout(Tensor::wrap(to.data(), {kSize}, DType::kF32), Tensor::wrap(ones.data(), {kSize}, DType::kF32),
                         {p, key, &samples});
  };
  for (float p : {0.1f, 0.5f, 0.9f}) {
    CAPTURE(p);
    run(y, p, 1, 1);
    double sum = 0;
    int64_t zeros = 0, pairs = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      sum += y[i];
      zeros += y[i] == 0;
      pairs += i > 0 && y[i] == 0 && y[i - 1] == 0;
    }
    // Five standard deviations of the counts.
    auto deviation = [](double share) { return 5 * std::sqrt(share * (1 - share) / kSize); };
    double share = static_cast<double>(zeros) / kSize;
    CHECK(std::abs(share - p) < deviation(p));
    CHECK(std::abs(sum / kSize - 1) < deviation(p) / (1 - p));
    CHECK(std::abs(static_cast<double>(pairs) / kSize - p * p) < 2 * deviation(p * p));
    for (auto [key, sample] : {std::pair<uint64_t, int64_t>{1, 2}, {2, 1}}) {
      run(other, p, key, sample);
      int64_t both = 0;
      for (size_t i = 0; i < y.size(); ++i) both += y[i] == 0 && other[i] == 0;
      CHECK(std::abs(static_cast<double>(both) / kSize - p * p) < deviation(p * p));
    }
  }
}

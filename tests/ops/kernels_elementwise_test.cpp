// Element-wise kernels, sums, embeddings, rotary positions, activations and Adam against double precision.
#include <limits>

#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

const std::vector<DType> kTypes{DType::kF32, DType::kBF16};
// Beside the odd sizes, ones that are shared between threads.
const std::vector<int64_t> kLengths{0, 1, 3, 17, 33, 257, 40001};

std::vector<double> map(const Array& x, auto&& f) {
  std::vector<double> v = x.values();
  for (double& e : v) e = f(e);
  return v;
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

double reference(Activation act, double x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * normal_cdf(x);
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return NAN;
}
// By Richardson's extrapolation of central differences: good to about 1e-10.
double reference_slope(Activation act, double x) {
  if (act == Activation::kRelu) return x > 0 ? 1 : 0;
  auto difference = [&](double h) { return (reference(act, x + h) - reference(act, x - h)) / (2 * h); };
  return (4 * difference(1e-3) - difference(2e-3)) / 3;
}

}  // namespace

TEST_CASE("add, scale and cast are exact up to one rounding") {
  for (DType type : kTypes)
    for (int64_t n : kLengths) {
      INFO(n, " elements of ", std::string(name_of(type)));
      Array a(n, type), b(n, type), y(n, type);
      a.random(1), b.random(2);
      std::vector<double> sum = a.values();
      for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] += b.get(i);
      on_every_set(
          {&y}, [&](const Kernels& k) { k.add(y.tensor(), a.tensor(), b.tensor()); },
          [&] { CHECK(worst_error(y, sum, 0) <= 1); });
      on_every_set(
          {&y}, [&] { y.set_all(a.values()); }, [&](const Kernels& k) { k.add(y.tensor(), y.tensor(), b.tensor()); },
          [&] { CHECK(worst_error(y, sum, 0) <= 1); });
      on_every_set(
          {&y}, [&] { y.set_all(a.values()); }, [&](const Kernels& k) { k.scale(y.tensor(), 0.375f); },
          [&] { CHECK(worst_error(y, map(a, [](double x) { return 0.375 * x; }), 0) <= 1); });
      for (DType to : kTypes) {
        Array cast(n, to);
        on_every_set(
            {&cast}, [&](const Kernels& k) { k.cast(cast.tensor(), a.tensor()); },
            [&] { CHECK(worst_error(cast, a.values(), 0) <= 1); });
      }
    }
}

TEST_CASE("a cast to bf16 rounds ties to even and keeps infinities and NaN") {
  std::vector<uint32_t> bits{0x3f808000, 0x3f818000, 0x3f808001, 0x7f800000, 0xff800000, 0x7f800001,
                             0x7f7fffff, 0x80000000, 0x00000001, 0x0000ffff, 0x3f800000, 0xbf808000,
                             0x7fffffff, 0xffc00000, 0x00018000, 0x12345678, 0x9abcdef0};
  std::vector<float> x(bits.size());
  std::memcpy(x.data(), bits.data(), bits.size() * sizeof(float));
  Shape shape{static_cast<int64_t>(x.size())};
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    INFO("instruction set ", std::string(set.name));
    std::vector<bf16> y(x.size());
    set.kernels->cast(Tensor::wrap(y.data(), shape, DType::kBF16), Tensor::wrap(x.data(), shape, DType::kF32));
    for (size_t i = 0; i < x.size(); ++i) {
      // Processors that convert by themselves take numbers below the smallest normal one for 0.
      bool tiny = std::abs(x[i]) < std::numeric_limits<float>::min();
      if (!tiny || y[i].bits << 1 != 0) CHECK(y[i].bits == to_bf16(x[i]).bits);
    }
  }
}

TEST_CASE("sums over rows and over everything") {
  for (DType type : kTypes)
    for (int64_t rows : {0, 1, 3, 33, 257, 2100})
      for (int64_t cols : {1, 17, 33, 288}) {
        INFO(rows, " x ", cols, " of ", std::string(name_of(type)));
        Array x(rows, cols, type, cols + 7), dense(rows, cols, type), start(cols), out(cols), total(1, DType::kF64);
        x.random(1, 1, 0.5), dense.random(2, 1, 0.5), start.random(3);
        for (bool accumulate : {false, true}) {
          std::vector<double> expected(static_cast<size_t>(cols), 0.0);
          for (int64_t j = 0; j < cols; ++j) {
            if (accumulate) expected[static_cast<size_t>(j)] = start.get(j);
            for (int64_t i = 0; i < rows; ++i) expected[static_cast<size_t>(j)] += x.get(i, j);
          }
          on_every_set(
              {&out},
              [&] {
                if (accumulate) out.set_all(start.values());
              },
              [&](const Kernels& k) { k.sum_rows(out.tensor(), x.tensor(), accumulate); },
              [&] { CHECK(worst_error(out, expected, std::sqrt(static_cast<double>(rows)) + 1) < 1); });
          double sum = accumulate ? 3 : 0, squares = accumulate ? 3 : 0;
          for (double v : dense.values()) sum += v, squares += v * v;
          auto prepare = [&] {
            if (accumulate) total.set(0, 3.0);
          };
          on_every_set(
              {&total}, prepare, [&](const Kernels& k) { k.sum_squares(total.tensor(), dense.tensor(), accumulate); },
              [&] { CHECK(worst_error(total, {squares}) < 1); });
          on_every_set(
              {&total}, prepare, [&](const Kernels& k) { k.sum(total.tensor(), dense.tensor(), accumulate); },
              [&] { CHECK(worst_error(total, {sum}, static_cast<double>(rows * cols) + 1) < 1); });
        }
      }
}

TEST_CASE("embeddings look rows up, and their gradient sums rows of one id in the order of the tokens") {
  for (DType type : kTypes)
    for (int64_t tokens : {0, 1, 33, 257})
      for (int64_t width : {1, 33, 130}) {
        INFO(tokens, " tokens of ", width, " ", std::string(name_of(type)));
        constexpr int64_t kVocab = 11;
        Array ids(tokens, DType::kI32), table(kVocab, width, type), y(tokens, width, type), dy(tokens, width, type);
        Array dtable(kVocab, width), start(kVocab, width);
        ids.fill([](int64_t i) { return (i * i + 3) % 10; });  // id 10 does not occur
        table.random(1), dy.random(2), start.random(3);
        std::vector<double> rows;
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t j = 0; j < width; ++j) rows.push_back(table.get(static_cast<int64_t>(ids.get(t)), j));
        on_every_set(
            {&y}, [&](const Kernels& k) { k.embedding_forward(y.tensor(), ids.tensor(), table.tensor(), 0); },
            [&] { CHECK(worst_error(y, rows, 0) == 0); });
        for (bool accumulate : {false, true}) {
          std::vector<double> expected(static_cast<size_t>(kVocab * width), 0.0);
          if (accumulate) expected = start.values();
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t j = 0; j < width; ++j)
              expected[static_cast<size_t>(static_cast<int64_t>(ids.get(t)) * width + j)] += dy.get(t, j);
          on_every_set(
              {&dtable},
              [&] {
                if (accumulate) dtable.set_all(start.values());
              },
              [&](const Kernels& k) {
                k.embedding_backward(dtable.tensor(), dy.tensor(), ids.tensor(), 0, accumulate);
              },
              [&] { CHECK(worst_error(dtable, expected, 10) < 1); });
        }
      }
}

TEST_CASE("rope rotates pairs of the first heads and its inverse rotates them back") {
  for (DType type : kTypes)
    for (int64_t tokens : {0, 1, 17, 257})
      for (int64_t rotary : {2, 10, 48, 64}) {
        INFO(tokens, " tokens, ", rotary, " rotary of ", std::string(name_of(type)));
        constexpr int64_t kHeads = 3, kHeadDim = 64, kWidth = 4 * kHeadDim + 5, kPositions = 19;
        int64_t half = rotary / 2;
        Array x(tokens, kWidth, type), y(tokens, kWidth, type), positions(tokens, DType::kI32);
        Array cos(kPositions, half), sin(kPositions, half);
        x.random(1);
        positions.fill([](int64_t i) { return (i * 7) % kPositions; });
        auto angle = [&](int64_t i) {
          return static_cast<double>(i / half) / std::pow(3.0, static_cast<double>(i % half));
        };
        cos.fill([&](int64_t i) { return std::cos(angle(i)); });
        sin.fill([&](int64_t i) { return std::sin(angle(i)); });
        for (bool inverse : {false, true}) {
          std::vector<double> expected = x.values();
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t h = 0; h < kHeads; ++h)
              for (int64_t i = 0; i < half; ++i) {
                int64_t position = static_cast<int64_t>(positions.get(t)), first = h * kHeadDim + i;
                double a = x.get(t, first), b = x.get(t, first + half);
                double c = cos.get(position, i), s = sin.get(position, i) * (inverse ? -1 : 1);
                expected[static_cast<size_t>(t * kWidth + first)] = a * c - b * s;
                expected[static_cast<size_t>(t * kWidth + first + half)] = b * c + a * s;
              }
          on_every_set(
              {&y}, [&] { y.set_all(x.values()); },
              [&](const Kernels& k) {
                k.rope(y.tensor(), positions.tensor(), cos.tensor(), sin.tensor(), kHeads, kHeadDim, inverse);
              },
              [&] { CHECK(worst_error(y, expected) <= 1); });
        }
      }
}

TEST_CASE("activations and their slopes agree with the library functions") {
  for (Activation act : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu})
    for (DType type : kTypes) {
      INFO("activation ", static_cast<int>(act), " of ", std::string(name_of(type)));
      constexpr int64_t kCount = 6001;
      Array x(kCount, type), y(kCount, type), dy(kCount, type);
      x.fill([](int64_t i) { return static_cast<double>(i - 3000) / 200.0 + 1e-4; });  // -15 to 15
      dy.random(1);
      std::vector<double> value = map(x, [&](double v) { return reference(act, v); });
      std::vector<double> slope = map(x, [&](double v) { return reference_slope(act, v); });
      for (int64_t i = 0; i < kCount; ++i) slope[static_cast<size_t>(i)] *= dy.get(i);
      on_every_set(
          {&y}, [&](const Kernels& k) { k.activation_forward(y.tensor(), x.tensor(), act); },
          [&] { CHECK(worst_error(y, value, 0.1) < 1); });
      on_every_set(
          {&y}, [&](const Kernels& k) { k.activation_backward(y.tensor(), dy.tensor(), x.tensor(), act); },
          [&] { CHECK(worst_error(y, slope) < 2); });
      // In place of either input.
      on_every_set(
          {&y}, [&] { y.set_all(dy.values()); },
          [&](const Kernels& k) { k.activation_backward(y.tensor(), y.tensor(), x.tensor(), act); },
          [&] { CHECK(worst_error(y, slope) < 2); });
      on_every_set(
          {&y}, [&] { y.set_all(x.values()); },
          [&](const Kernels& k) { k.activation_backward(y.tensor(), dy.tensor(), y.tensor(), act); },
          [&] { CHECK(worst_error(y, slope) < 2); });
    }
}

TEST_CASE("activations at the ends of the range stay finite and keep NaN") {
  for (const cpu::KernelSet& set : cpu::runnable_sets())
    for (Activation act : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
      INFO("instruction set ", std::string(set.name), ", activation ", static_cast<int>(act));
      std::vector<float> x{-3e38f, -1000, -90, -88, 0, 88, 90, 1000, 3e37f, NAN}, y(x.size());
      Shape shape{static_cast<int64_t>(x.size())};
      set.kernels->activation_forward(Tensor::wrap(y.data(), shape, DType::kF32),
                                      Tensor::wrap(x.data(), shape, DType::kF32), act);
      for (size_t i = 0; i + 1 < x.size(); ++i) CHECK(y[i] == doctest::Approx(std::max(x[i], 0.0f)));
      CHECK(std::isnan(y.back()));
    }
}

TEST_CASE("gated activations multiply act(gate) by up, and their gradient may replace its input") {
  for (Activation act : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu})
    for (DType type : kTypes)
      for (int64_t rows : {0, 1, 33, 130})
        for (int64_t width : {1, 33, 257}) {
          INFO(rows, " x ", width, " of ", std::string(name_of(type)));
          Array gate_up(rows, 2 * width, type), y(rows, width, type), dy(rows, width, type), d(rows, 2 * width, type);
          gate_up.random(1, 2), dy.random(2);
          std::vector<double> value, gradient(static_cast<size_t>(rows * 2 * width));
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < width; ++j) {
              double gate = gate_up.get(r, j), up = gate_up.get(r, width + j), above = dy.get(r, j);
              value.push_back(reference(act, gate) * up);
              gradient[static_cast<size_t>(r * 2 * width + j)] = above * up * reference_slope(act, gate);
              gradient[static_cast<size_t>(r * 2 * width + width + j)] = above * reference(act, gate);
            }
          on_every_set(
              {&y}, [&](const Kernels& k) { k.gated_forward(y.tensor(), gate_up.tensor(), act); },
              [&] { CHECK(worst_error(y, value) < 1); });
          on_every_set(
              {&d}, [&](const Kernels& k) { k.gated_backward(d.tensor(), dy.tensor(), gate_up.tensor(), act); },
              [&] { CHECK(worst_error(d, gradient) < 2); });
          on_every_set(
              {&d}, [&] { d.set_all(gate_up.values()); },
              [&](const Kernels& k) { k.gated_backward(d.tensor(), dy.tensor(), d.tensor(), act); },
              [&] { CHECK(worst_error(d, gradient) < 2); });
        }
}

TEST_CASE("adam follows the textbook for several steps, decoupled or not, with clipping and a bf16 copy") {
  for (int64_t n : kLengths)
    for (bool decoupled : {false, true}) {
      INFO(n, " parameters, decoupled ", decoupled);
      Array p(n), m(n), v(n), g(n), copy(n, DType::kBF16), start(n);
      start.random(1), g.random(2);
      AdamArgs args{0.01, 0.9, 0.95, 1e-8, 0.1, decoupled, 1, 0.5f};
      constexpr int kSteps = 3;
      std::vector<double> pv = start.values(), mv(pv.size(), 0.0), vv(pv.size(), 0.0);
      for (int step = 1; step <= kSteps; ++step)
        for (size_t i = 0; i < pv.size(); ++i) {
          double d = g.get(static_cast<int64_t>(i)) * 0.5;
          if (!decoupled) d += args.weight_decay * pv[i];
          if (decoupled) pv[i] *= 1 - args.lr * args.weight_decay;
          mv[i] = args.beta1 * mv[i] + (1 - args.beta1) * d;
          vv[i] = args.beta2 * vv[i] + (1 - args.beta2) * d * d;
          double mean = mv[i] / (1 - std::pow(args.beta1, step)), square = vv[i] / (1 - std::pow(args.beta2, step));
          pv[i] -= args.lr * mean / (std::sqrt(square) + args.eps);
        }
      on_every_set(
          {&p, &m, &v, &copy},
          [&] {
            p.set_all(start.values());
            m.fill([](int64_t) { return 0; });
            v.fill([](int64_t) { return 0; });
          },
          [&](const Kernels& k) {
            for (int step = 1; step <= kSteps; ++step) {
              args.step = step;
              k.adam(p.tensor(), m.tensor(), v.tensor(), g.tensor(), copy.tensor(), args);
            }
          },
          [&] {
            CHECK(worst_error(p, pv) < 1);
            CHECK(worst_error(m, mv) < 1);
            CHECK(worst_error(v, vv) < 1);
            for (int64_t i = 0; i < n; ++i) CHECK(copy.get(i) == to_float(to_bf16(static_cast<float>(p.get(i)))));
          });
      on_every_set(
          {&p, &m, &v},
          [&] {
            p.set_all(start.values());
            m.fill([](int64_t) { return 0; });
            v.fill([](int64_t) { return 0; });
          },
          [&](const Kernels& k) {
            for (int step = 1; step <= kSteps; ++step) {
              args.step = step;
              k.adam(p.tensor(), m.tensor(), v.tensor(), g.tensor(), Tensor(), args);
            }
          },
          [&] { CHECK(worst_error(p, pv) < 1); });
    }
}

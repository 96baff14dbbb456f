// The matrix product of every instruction set against a double-precision triple loop.
#include <thread>

#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

struct Problem {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
  enum { kPlain, kAccumulate, kBias } mode = kPlain;
  DType in = DType::kF32, out = DType::kF32;
  int64_t gap = 0;  // extra columns between the rows of all three
};

std::string describe(const Problem& p) {
  return std::to_string(p.m) + " x " + std::to_string(p.n) + " x " + std::to_string(p.k) +
         (p.transpose_a ? " ta" : "") + (p.transpose_b ? " tb" : "") + " mode " + std::to_string(p.mode) + " " +
         name_of(p.in) + " to " + name_of(p.out) + " gap " + std::to_string(p.gap);
}

void check_product(const Problem& p) {
  INFO(describe(p));
  auto matrix = [&](int64_t rows, int64_t cols, DType type) { return Array(rows, cols, type, cols + p.gap); };
  Array a = p.transpose_a ? matrix(p.k, p.m, p.in) : matrix(p.m, p.k, p.in);
  Array b = p.transpose_b ? matrix(p.n, p.k, p.in) : matrix(p.k, p.n, p.in);
  Array bias(p.n, p.in), before = matrix(p.m, p.n, p.out), c = matrix(p.m, p.n, p.out);
  a.random(1), b.random(2), bias.random(3), before.random(4);

  std::vector<double> av = a.values(), bv = b.values(), expected(static_cast<size_t>(p.m * p.n), 0.0);
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t x = 0; x < p.k; ++x) {
      double left = av[static_cast<size_t>(p.transpose_a ? x * p.m + i : i * p.k + x)];
      for (int64_t j = 0; j < p.n; ++j)
        expected[static_cast<size_t>(i * p.n + j)] +=
            left * bv[static_cast<size_t>(p.transpose_b ? j * p.k + x : x * p.n + j)];
    }
  for (int64_t i = 0; i < p.m * p.n; ++i) {
    if (p.mode == Problem::kAccumulate) expected[static_cast<size_t>(i)] += before.get(i);
    if (p.mode == Problem::kBias) expected[static_cast<size_t>(i)] += bias.get(i % p.n);
  }

  Tensor bias_tensor = bias.tensor();
  MatmulArgs args{p.transpose_a, p.transpose_b, p.mode == Problem::kAccumulate,
                  p.mode == Problem::kBias ? &bias_tensor : nullptr};
  bool library = p.in == DType::kF32 && !p.transpose_b && p.mode != Problem::kBias;
  on_every_set(
      {&c},
      [&] {
        if (args.accumulate) c.set_all(before.values());
      },
      [&](const Kernels& kernels) { kernels.matmul(c.tensor(), a.tensor(), b.tensor(), args); },
      [&] { CHECK(worst_error(c, expected, std::sqrt(static_cast<double>(p.k)) + 1) < 3); },
      library ? ThreadsMayChange::kLastBits : ThreadsMayChange::kNothing);
}

void check_all_forms(int64_t m, int64_t n, int64_t k) {
  int form = 0;
  for (auto [in, out] :
       {std::pair(DType::kF32, DType::kF32), {DType::kBF16, DType::kF32}, {DType::kBF16, DType::kBF16}})
    for (bool transpose_a : {false, true})
      for (bool transpose_b : {false, true})
        for (auto mode : {Problem::kPlain, Problem::kAccumulate, Problem::kBias})
          check_product({m, n, k, transpose_a, transpose_b, mode, in, out, ++form % 2 == 0 ? 0 : 5});
}

}  // namespace

TEST_CASE("matmul is right at odd sizes in every form") {
  check_all_forms(1, 1, 1);
  check_all_forms(1, 33, 17);
  check_all_forms(3, 17, 257);
  check_all_forms(17, 33, 33);
  check_all_forms(33, 257, 3);
  check_all_forms(63, 70, 64);
}

TEST_CASE("matmul is right when K is longer than one stretch, and than one slab") {
  check_all_forms(15, 33, 801);
  for (DType in : {DType::kF32, DType::kBF16})
    for (auto mode : {Problem::kPlain, Problem::kAccumulate, Problem::kBias}) {
      check_product({5, 37, 3300, false, true, mode, in, in});
      check_product({5, 37, 3300, true, false, mode, in, DType::kF32});
    }
}

TEST_CASE("matmul is right when an operand is larger than one slab") {
  check_product({1400, 7, 1536, false, true});
  check_product({7, 1400, 1536, true, false, Problem::kAccumulate});
  check_product({1400, 7, 3072, true, true, Problem::kBias, DType::kBF16, DType::kBF16});
}

TEST_CASE("an empty matmul leaves zeros, the bias, or what was there") {
  check_all_forms(0, 3, 5);
  check_all_forms(3, 0, 5);
  check_all_forms(3, 5, 0);
}

TEST_CASE("several threads may call matmul at once") {
  Array a(64, 96), b(96, 80), alone(64, 80);
  a.random(1), b.random(2);
  cpu::table().matmul(alone.tensor(), a.tensor(), b.tensor(), {});
  std::vector<Array> results(4, Array(64, 80));
  std::vector<std::thread> threads;
  for (Array& c : results)
    threads.emplace_back([&] {
      omp_set_num_threads(1);
      for (int i = 0; i < 20; ++i) cpu::table().matmul(c.tensor(), a.tensor(), b.tensor(), {});
    });
  for (std::thread& thread : threads) thread.join();
  for (Array& c : results) CHECK((c.memory() == alone.memory()));
}

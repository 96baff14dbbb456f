// How products come to their algorithm: the real ops/cuda/matmul.cpp over an emulated BLAS.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "ops/cuda/table.h"
#include "ops/kernel_support.h"
#include "support/cuda_emulator/blas.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

// Choices belong to a thread, and to the user's cache, which the test's own stands in for.
template <class F>
void in_thread(F&& f) {
  std::thread(f).join();
}

void multiply(int64_t m, int64_t n, int64_t k, int64_t offset = 0) {
  Array a(m, k, DType::kBF16, k + 8), b(n, k + offset, DType::kBF16, k + 8), c(m, n);
  a.random(1), b.random(2);
  cuda::matmul(c.tensor(), a.tensor(), b.tensor().columns(offset, k), {.transpose_b = true});
}

}  // namespace

TEST_CASE("emulated CUDA: a product is measured once, its fastest algorithm kept for later runs") {
  std::filesystem::path cache = std::filesystem::temp_directory_path() / "automodel_cuda_matmul_test";
  std::filesystem::remove_all(cache);
  const char* before = std::getenv("XDG_CACHE_HOME");
  std::string kept = before == nullptr ? "" : before;
  setenv("XDG_CACHE_HOME", cache.c_str(), 1);
  emulator::BlasCounts& counts = emulator::blas_counts();
  counts = {};
  in_thread([&] {
    multiply(3, 5, 16);
    CHECK(counts.searches == 1);
    CHECK(counts.algorithm == 3);
    CHECK(counts.alignment == 16);
    int products = counts.products;
    CHECK(products > 3);
    multiply(3, 5, 16);
    CHECK(counts.searches == 1);
    CHECK(counts.products == products + 1);
    multiply(4, 5, 16);
    CHECK(counts.searches == 2);
    multiply(4, 5, 16, 1);  // the same shape two bytes further on
    CHECK(counts.searches == 3);
    CHECK(counts.alignment == 2);
  });
  counts = {};
  in_thread([&] {
    multiply(3, 5, 16);
    CHECK(counts.searches == 0);
    CHECK(counts.products == 1);
    CHECK(counts.algorithm == 3);
  });
  setenv("AUTOMODEL_MATMUL_SEARCH", "0", 1);
  in_thread([&] {
    // The first proposal, which this BLAS then refuses.
    CHECK_THROWS_WITH_AS(multiply(3, 5, 16), doctest::Contains("cuBLASLt: a product"), std::runtime_error);
    CHECK(counts.searches == 1);
  });
  unsetenv("AUTOMODEL_MATMUL_SEARCH");
  if (kept.empty())
    unsetenv("XDG_CACHE_HOME");
  else
    setenv("XDG_CACHE_HOME", kept.c_str(), 1);
  std::filesystem::remove_all(cache);
}

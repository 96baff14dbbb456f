#include "train/rates.h"

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "ops/kernels.h"
#include "tensor/tensor.h"

namespace automodel::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The shortest of the runs of `f` within about `budget` seconds, after one that does not count. `f` ends when its work
// is done.
template <class F>
double shortest(double budget, F&& f) {
  f();
  double best = 1e30;
  auto begin = Clock::now();
  do {
    auto start = Clock::now();
    f();
    best = std::min(best, seconds_since(start));
  } while (seconds_since(begin) < budget);
  return best;
}

// The host reads what was computed last, so all of it is done.
void wait_for(const Tensor& result) {
  std::byte first;
  result.allocator()->download(&first, result.raw(), 1);
}

// Copies, and products of a device, so many times in a row that their start does not count.
int repetitions(const Allocator& allocator) {
  return allocator.device().is_cpu() ? 1 : 8;
}

}  // namespace

double matmul_gflops(DType dtype, Allocator& allocator) {
  int64_t width = allocator.device().is_cpu() ? 1024 : 4096;
  Tensor x = Tensor::zeros({width, width}, dtype, allocator), w = Tensor::zeros({width, width}, dtype, allocator);
  Tensor y = Tensor::zeros({width, width}, dtype, allocator);
  const ops::Kernels& k = ops::kernels(allocator.device());
  int times = repetitions(allocator);
  double seconds = shortest(0.25, [&] {
    for (int i = 0; i < times; ++i) k.matmul(y, x, w, {.transpose_b = true});
    wait_for(y);
  });
  return 2e-9 * times * static_cast<double>(width * width * width) / seconds;
}

double copy_rate(Allocator& allocator) {
  int64_t numbers = int64_t{allocator.device().is_cpu() ? 32 : 256} << 20;
  Tensor from = Tensor::zeros({numbers}, DType::kF32, allocator), to = Tensor::zeros({numbers}, DType::kF32, allocator);
  int times = repetitions(allocator);
  double seconds = shortest(0.25, [&] {
    for (int i = 0; i < times; ++i) ops::kernels(allocator.device()).cast(to, from);
    wait_for(to);
  });
  return 2e-9 * 4 * times * static_cast<double>(numbers) / seconds;
}

TransferRates transfer_rates(Allocator& allocator) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  auto host = allocator.make_host_allocator();
  Tensor here = Tensor::zeros({kBytes}, DType::kU8, *host), there = Tensor::zeros({kBytes}, DType::kU8, allocator);
  auto rate = [](double seconds) { return 1e-9 * static_cast<double>(kBytes) / seconds; };
  double up = shortest(0.25, [&] {
    upload(there, here.raw());
    wait_for(there);
  });
  double down = shortest(0.25, [&] { download(here.raw(), there); });
  return {rate(up), rate(down)};
}

}  // namespace automodel::train

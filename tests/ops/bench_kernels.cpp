// Speed of the kernels at the shapes of small language models: products in GFLOP/s and as a share of what the cores can
// do at most (measured beside each), the others in GB/s of memory that must move.
//
//   OMP_NUM_THREADS=2 build/tests/bench_kernels --benchmark_filter='matmul/bf16'
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cmath>
#include <string>
#include <vector>

#include "ops/cpu/peak.h"
#include "ops/kernels.h"
#include "tensor/tensor.h"

using namespace automodel;
using namespace automodel::ops;

namespace {

Allocator& memory() {
  static std::unique_ptr<Allocator> allocator = make_cpu_allocator();
  return *allocator;
}

// Numbers between -0.5 and 0.5.
Tensor numbers(Shape shape, DType dtype) {
  Tensor t = Tensor::empty(shape, dtype, memory());
  for (int64_t i = 0; i < t.numel(); ++i) {
    float x = static_cast<float>(i * 2654435761 % 1000) / 1000 - 0.5f;
    if (dtype == DType::kF32)
      t.data<float>()[i] = x;
    else
      t.data<bf16>()[i] = to_bf16(x);
  }
  return t;
}
Tensor integers(int64_t n, int64_t below) {
  Tensor t = Tensor::empty(Shape{n}, DType::kI32, memory());
  for (int64_t i = 0; i < n; ++i) t.data<int32_t>()[i] = static_cast<int32_t>(i * 7919 % below);
  return t;
}

const Kernels& table() {
  return cpu::table();
}

enum class Product { kForward, kInputGradient, kWeightGradient };

void matmul(benchmark::State& state, Product product, DType type, int64_t tokens, int64_t in, int64_t out) {
  DType weight_gradient = product == Product::kWeightGradient ? DType::kF32 : type;
  Tensor x = numbers(Shape{tokens, in}, type), y = numbers(Shape{tokens, out}, type);
  Tensor w = numbers(Shape{out, in}, weight_gradient);
  MatmulArgs args;
  args.transpose_a = product == Product::kWeightGradient;
  args.transpose_b = product == Product::kForward;
  args.accumulate = product == Product::kWeightGradient;
  double peak = cpu::peak_flops(type, 0.05);
  for (auto _ : state) {
    if (product == Product::kForward) table().matmul(y, x, w, args);
    if (product == Product::kInputGradient) table().matmul(x, y, w, args);
    if (product == Product::kWeightGradient) table().matmul(w, y, x, args);
  }
  peak = std::max(peak, cpu::peak_flops(type, 0.05));
  double flops = 2.0 * static_cast<double>(tokens * in * out) * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsRate);
  state.counters["share"] = benchmark::Counter(flops / peak, benchmark::Counter::kIsRate);
}

// run() moves `bytes` of memory.
template <class Run>
void moving(benchmark::State& state, double bytes, Run&& run) {
  for (auto _ : state) run();
  state.counters["GB/s"] =
      benchmark::Counter(bytes * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void add_matmuls() {
  struct Layer {
    int64_t in, out;
  };
  const std::vector<Layer> layers{{288, 864}, {288, 288},  {288, 1536}, {768, 288},  {768, 2304},
                                  {768, 768}, {768, 4096}, {2048, 768}, {768, 3072}, {3072, 768}};
  auto add = [](int64_t tokens, Layer layer) {
    for (DType type : {DType::kF32, DType::kBF16})
      for (auto [name, product] : {std::pair("forward", Product::kForward),
                                   {"dx", Product::kInputGradient},
                                   {"dw", Product::kWeightGradient}}) {
        std::string title = std::string("matmul/") + (type == DType::kF32 ? "f32/" : "bf16/") + name + "/" +
                            std::to_string(tokens) + "x" + std::to_string(layer.in) + "->" + std::to_string(layer.out);
        benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) {
          matmul(state, product, type, tokens, layer.in, layer.out);
        })->UseRealTime();
      }
  };
  for (int64_t tokens : {2048, 256})
    for (Layer layer : layers) add(tokens, layer);
  for (int64_t tokens : {256, 1024})
    for (Layer layer : {Layer{288, 32000}, {768, 32000}, {768, 50257}}) add(tokens, layer);
}

template <class F>
void add_moving(const std::string& name, F&& f) {
  benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime();
}

void add_others() {
  constexpr int64_t kTokens = 2048, kWidth = 768, kHidden = 2048;
  for (DType type : {DType::kF32, DType::kBF16}) {
    std::string suffix = type == DType::kF32 ? "/f32" : "/bf16";
    auto size = static_cast<double>(size_of(type));
    double row = kTokens * kWidth * size, hidden_row = kTokens * kHidden * size;

    add_moving("rms_norm_forward" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, kWidth}, type), y = x.clone(), w = numbers(Shape{kWidth}, type);
      Tensor rstd = numbers(Shape{kTokens}, DType::kF32);
      moving(state, 2 * row, [&] { table().rms_norm_forward(y, rstd, x, w, 1e-5f); });
    });
    add_moving("rms_norm_backward" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, kWidth}, type), dy = x.clone(), dx = x.clone(),
             w = numbers(Shape{kWidth}, type);
      Tensor rstd = numbers(Shape{kTokens}, DType::kF32), dw = numbers(Shape{kWidth}, DType::kF32);
      moving(state, 4 * row, [&] { table().rms_norm_backward(dx, true, dw, true, dy, x, rstd, w); });
    });
    add_moving("layer_norm_forward" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, kWidth}, type), y = x.clone(), w = numbers(Shape{kWidth}, type), b = w.clone();
      Tensor mean = numbers(Shape{kTokens}, DType::kF32), rstd = mean.clone();
      moving(state, 2 * row, [&] { table().layer_norm_forward(y, mean, rstd, x, w, b, 1e-5f); });
    });
    add_moving("layer_norm_backward" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, kWidth}, type), dy = x.clone(), dx = x.clone(),
             w = numbers(Shape{kWidth}, type);
      Tensor mean = numbers(Shape{kTokens}, DType::kF32), rstd = mean.clone();
      Tensor dw = numbers(Shape{kWidth}, DType::kF32), db = dw.clone();
      moving(state, 4 * row, [&] { table().layer_norm_backward(dx, true, dw, db, true, dy, x, mean, rstd, w); });
    });
    add_moving("rope" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, 3 * kWidth}, type), positions = integers(kTokens, 512);
      Tensor cos = numbers(Shape{512, 32}, DType::kF32), sin = cos.clone();
      moving(state, 4 * row, [&] { table().rope(x, positions, cos, sin, 24, 64, false); });
    });
    for (auto [name, act] :
         {std::pair("silu", Activation::kSilu), {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh}}) {
      add_moving(std::string("gated_forward/") + name + suffix, [=, act = act](benchmark::State& state) {
        Tensor x = numbers(Shape{kTokens, 2 * kHidden}, type), y = numbers(Shape{kTokens, kHidden}, type);
        moving(state, 3 * hidden_row, [&] { table().gated_forward(y, x, act); });
      });
      add_moving(std::string("gated_backward/") + name + suffix, [=, act = act](benchmark::State& state) {
        Tensor x = numbers(Shape{kTokens, 2 * kHidden}, type), d = x.clone(),
               dy = numbers(Shape{kTokens, kHidden}, type);
        moving(state, 5 * hidden_row, [&] { table().gated_backward(d, dy, x, act); });
      });
      add_moving(std::string("activation_backward/") + name + suffix, [=, act = act](benchmark::State& state) {
        Tensor x = numbers(Shape{kTokens, kHidden}, type), dy = x.clone(), dx = x.clone();
        moving(state, 3 * hidden_row, [&] { table().activation_backward(dx, dy, x, act); });
      });
    }
    for (int64_t vocab : {32000, 50257})
      add_moving("cross_entropy/" + std::to_string(vocab) + suffix, [=](benchmark::State& state) {
        constexpr int64_t kRows = 1024;
        Tensor logits = numbers(Shape{kRows, vocab}, DType::kF32), d = numbers(Shape{kRows, vocab}, type);
        Tensor labels = integers(kRows, vocab);
        Tensor losses = numbers(Shape{kRows}, DType::kF32);
        moving(state, (4.0 + size) * kRows * static_cast<double>(vocab),
               [&] { table().cross_entropy(losses, d, logits, labels, true, 1e-3f); });
      });
    add_moving("embedding_forward" + suffix, [=](benchmark::State& state) {
      Tensor words = numbers(Shape{32000, kWidth}, type), y = numbers(Shape{kTokens, kWidth}, type);
      Tensor ids = integers(kTokens, 32000);
      moving(state, 2 * row, [&] { table().embedding_forward(y, ids, words, 0); });
    });
    add_moving("embedding_backward" + suffix, [=](benchmark::State& state) {
      Tensor dwords = numbers(Shape{32000, kWidth}, DType::kF32), dy = numbers(Shape{kTokens, kWidth}, type);
      Tensor ids = integers(kTokens, 32000);
      moving(state, row + 8.0 * kTokens * kWidth, [&] { table().embedding_backward(dwords, dy, ids, 0, true); });
    });
    add_moving("add" + suffix, [=](benchmark::State& state) {
      Tensor a = numbers(Shape{kTokens, 16 * kWidth}, type), b = a.clone(), y = a.clone();
      moving(state, 48 * row, [&] { table().add(y, a, b); });
    });
    add_moving("sum_rows" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, 16 * kWidth}, type), out = numbers(Shape{16 * kWidth}, DType::kF32);
      moving(state, 16 * row, [&] { table().sum_rows(out, x, true); });
    });
    add_moving("sum_squares" + suffix, [=](benchmark::State& state) {
      Tensor x = numbers(Shape{kTokens, 16 * kWidth}, type), out = Tensor::empty(Shape{1}, DType::kF64, memory());
      moving(state, 16 * row, [&] { table().sum_squares(out, x, false); });
    });
  }
  add_moving("cast/f32_to_bf16", [](benchmark::State& state) {
    Tensor x = numbers(Shape{kTokens, 16 * kWidth}, DType::kF32), y = numbers(x.shape(), DType::kBF16);
    moving(state, 6.0 * static_cast<double>(x.numel()), [&] { table().cast(y, x); });
  });
  for (bool with_copy : {false, true})
    add_moving(with_copy ? "adam/with_copy" : "adam", [=](benchmark::State& state) {
      Tensor p = numbers(Shape{int64_t{20} << 20}, DType::kF32), m = p.clone(), v = p.clone(), g = p.clone();
      table().scale(v, 0);
      Tensor copy = with_copy ? numbers(p.shape(), DType::kBF16) : Tensor();
      moving(state, (with_copy ? 30.0 : 28.0) * static_cast<double>(p.numel()),
             [&] { table().adam(p, m, v, g, copy, AdamArgs{.lr = 1e-4, .weight_decay = 0.1, .step = 10}); });
    });
}

}  // namespace

int main(int argc, char** argv) {
  add_matmuls();
  add_others();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

// What a checkpointed block keeps, op by op.
#include "autograd/checkpoint.h"

#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/rng.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/pointwise.h"

using namespace automodel;
using autograd::CheckpointOptions;
using autograd::Fate;
using autograd::Param;
using autograd::Recall;
using autograd::Tape;
using autograd::Var;
using autograd::Work;

namespace {

constexpr int64_t kTokens = 6, kWidth = 8, kInner = 24;
const ops::HeadLayout kHeads{2, 1, 4};

// A decoder layer as Llama's is, with biases or without.
struct Layer {
  explicit Layer(bool biased) {
    Random numbers(11, "layer");
    uint64_t next = 0;
    for (auto [name, shape] : {std::pair<std::string, Shape>{"qkv", {kHeads.width(), kWidth}},
                               {"o", {kWidth, kWidth}},
                               {"gate_up", {2 * kInner, kWidth}},
                               {"down", {kWidth, kInner}},
                               {"norm", {kWidth}},
                               {"qkv.bias", {kHeads.width()}},
                               {"o.bias", {kWidth}},
                               {"gate_up.bias", {2 * kInner}},
                               {"down.bias", {kWidth}}}) {
      if (!biased && name.ends_with(".bias")) continue;
      Param& p = params[name];
      p.value = Tensor::empty(shape, DType::kF32, *allocator);
      p.grad = Tensor::zeros(shape, DType::kF32, *allocator);
      for (int64_t i = 0; i < p.value.numel(); ++i) p.value.data<float>()[i] = numbers.normal(next++);
    }
  }
  ops::Projection projection(const std::string& name) {
    auto bias = params.find(name + ".bias");
    return {&params.at(name), bias == params.end() ? nullptr : &bias->second};
  }
  Var run(const Var& x) {
    Param& norm = params.at("norm");
    ops::AttentionArgs args{.batch = 1, .sequence = kTokens, .layout = kHeads, .scale = 0.5f};
    Var qkv = ops::linear(ops::rms_norm(x, norm, 1e-5f), projection("qkv"));
    Var h = ops::add(x, ops::linear(ops::attention(qkv, args, {}), projection("o")));
    Var inner = ops::gated(ops::linear(ops::rms_norm(h, norm, 1e-5f), projection("gate_up")), ops::Activation::kSilu);
    return ops::add(h, ops::linear(inner, projection("down")));
  }

  std::unique_ptr<Allocator> allocator = make_cpu_allocator();
  std::map<std::string, Param> params;
};

struct Outcome {
  std::vector<std::string> kept, made_again;
  int64_t bytes = 0;  // that the block leaves between the passes, its result aside
  std::vector<float> numbers;
};

Outcome run(Layer& layer, std::optional<Recall> recall) {
  Outcome out;
  for (auto& [name, p] : layer.params) p.has_grad = false;
  Tape tape(*layer.allocator, ops::add_into, true);
  Tensor x = Tensor::empty({kTokens, kWidth}, DType::kF32, *layer.allocator);
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = Random(5, "x").normal(static_cast<uint64_t>(i));
  Var in = tape.input(x, true);
  int64_t before = layer.allocator->stats().current_total;
  CheckpointOptions options{recall.value_or(Recall::kNothing), true, [&](const char* op, Work, Fate fate) {
                              if (fate == Fate::kKept) out.kept.emplace_back(op);
                              if (fate == Fate::kMadeAgain) out.made_again.emplace_back(op);
                            }};
  auto block = [&](const Var& v) { return layer.run(v); };
  Var y = recall ? autograd::checkpoint(in, block, options) : block(in);
  out.bytes = layer.allocator->stats().current_total - before - static_cast<int64_t>(y.value.bytes());
  out.numbers.assign(y.value.data<float>(), y.value.data<float>() + y.value.numel());
  tape.backward(y, x.clone());
  auto append = [&](const Tensor& t) {
    out.numbers.insert(out.numbers.end(), t.data<float>(), t.data<float>() + t.numel());
  };
  append(tape.grad(in));
  for (auto& [name, p] : layer.params) append(p.grad);
  return out;
}

}  // namespace

TEST_CASE("selective checkpointing keeps attention and every other product, the first one first") {
  Layer layer(false);
  Outcome plain = run(layer, {}), full = run(layer, Recall::kNothing), selective = run(layer, Recall::kSelected);
  CHECK(full.numbers == plain.numbers);
  CHECK(selective.numbers == plain.numbers);

  CHECK(full.kept.empty());
  CHECK(full.bytes == 0);
  // qkv, attention, o, gate_up, down
  CHECK(selective.kept == std::vector<std::string>{"linear", "attention", "linear"});
  CHECK(selective.made_again == std::vector<std::string>{"linear"});  // o; nobody reads what down gives
  auto floats = [](int64_t n) { return (n * 4 + 63) / 64 * 64; };
  int64_t expected = floats(kTokens * kHeads.width()) + floats(kTokens * kWidth) + floats(kTokens * kHeads.heads) +
                     floats(kTokens * 2 * kInner);
  CHECK(selective.bytes <= expected);
  CHECK(selective.bytes > expected - 4 * 64);
}

TEST_CASE("selective checkpointing keeps all products with a bias") {
  Layer layer(true);
  Outcome selective = run(layer, Recall::kSelected);
  CHECK(selective.numbers == run(layer, {}).numbers);
  CHECK(selective.made_again.empty());
  CHECK(selective.kept == std::vector<std::string>{"linear", "attention", "linear", "linear"});
}

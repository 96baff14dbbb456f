// Every op's backward against finite differences of its forward, and what the tape promises.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "autograd/checkpoint.h"
#include "core/rng.h"
#include "nn/rope.h"
#include "ops/attention.h"
#include "ops/head.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/pointwise.h"

using namespace automodel;
using autograd::Param;
using autograd::Tape;
using autograd::Var;

namespace {

struct Bench {
  std::unique_ptr<Allocator> allocator = make_cpu_allocator();
  uint64_t stream = 0;

  Tensor random(Shape shape, float scale = 1.0f) {
    Tensor t = Tensor::empty(shape, DType::kF32, *allocator);
    Random numbers(3, ++stream);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = scale * numbers.normal(static_cast<uint64_t>(i));
    return t;
  }
  Param param(Shape shape, float scale = 1.0f) {
    Param p;
    p.value = random(shape, scale);
    p.grad = Tensor::zeros(shape, DType::kF32, *allocator);
    return p;
  }
  Tensor ints(const std::vector<int32_t>& values) {
    Tensor t = Tensor::empty({static_cast<int64_t>(values.size())}, DType::kI32, *allocator);
    std::memcpy(t.raw(), values.data(), t.bytes());
    return t;
  }
};

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += static_cast<double>(a.data<float>()[i]) * b.data<float>()[i];
  return sum;
}

// y = op(tape, x); checks dx and every Param's gradient of <y, c> along random directions.
using Op = std::function<Var(Tape&, const Var&)>;

double value_of(Bench& b, const Op& op, const Tensor& x, const Tensor& c) {
  Tape tape(*b.allocator, ops::add_into, false);
  return dot(op(tape, tape.input(x.clone())).value, c);
}

void check_direction(Bench& b, const std::function<double()>& value, const Tensor& at, const Tensor& gradient) {
  Tensor v = b.random(at.shape());
  Tensor base = at.clone();
  constexpr float kStep = 2e-3f;
  auto moved = [&](float h) {
    for (int64_t i = 0; i < at.numel(); ++i) at.data<float>()[i] = base.data<float>()[i] + h * v.data<float>()[i];
    double y = value();
    copy(at, base);
    return y;
  };
  double numeric = (moved(kStep) - moved(-kStep)) / (2.0 * kStep);
  double analytic = dot(gradient, v);
  double scale = std::sqrt(dot(gradient, gradient)) + 1e-3;
  CHECK(std::abs(numeric - analytic) < 5e-3 * scale);
}

void check_op(Bench& b, const Op& op, const Tensor& x, const std::vector<Param*>& params) {
  for (Param* p : params) p->has_grad = false;
  Tape tape(*b.allocator, ops::add_into, true);
  Var in = tape.input(x.clone(), true);
  Var y = op(tape, in);
  Tensor c = b.random(y.value.shape());
  tape.backward(y, c.clone());
  check_direction(
      b, [&] { return value_of(b, op, x, c); }, x, tape.grad(in));
  for (Param* p : params) {
    REQUIRE(p->has_grad);
    check_direction(
        b, [&] { return value_of(b, op, x, c); }, p->value, p->grad);
  }
}

}  // namespace

TEST_CASE("linear: [out, in], [in, out], bias, several weights at once") {
  Bench b;
  Param w = b.param({7, 5}), bias = b.param({7}), w2 = b.param({3, 5}), conv = b.param({5, 4});
  check_op(b, [&](Tape&, const Var& x) { return ops::linear(x, {&w, &bias, false}); }, b.random({9, 5}), {&w, &bias});
  check_op(b, [&](Tape&, const Var& x) { return ops::linear(x, {&conv, nullptr, true}); }, b.random({3, 5}), {&conv});
  std::vector<ops::Projection> both{{&w, &bias, false}, {&w2, nullptr, false}};
  check_op(b, [&](Tape&, const Var& x) { return ops::linear(x, both); }, b.random({6, 5}), {&w, &bias, &w2});
}

TEST_CASE("linear: weights one after the other in memory are one product with the same result") {
  Bench b;
  Tensor flat = b.random({9 * 5}), grads = Tensor::zeros({9 * 5}, DType::kF32, *b.allocator);
  Param first, second;
  first.value = flat.narrow(0, 20).view({4, 5});
  second.value = flat.narrow(20, 25).view({5, 5});
  first.grad = grads.narrow(0, 20).view({4, 5});
  second.grad = grads.narrow(20, 25).view({5, 5});
  std::vector<ops::Projection> both{{&first, nullptr, false}, {&second, nullptr, false}};
  check_op(b, [&](Tape&, const Var& x) { return ops::linear(x, both); }, b.random({6, 5}), {&first, &second});
}

TEST_CASE("norms, and a linear that makes the norm's result again") {
  Bench b;
  Param w = b.param({11}), bias = b.param({11}), m = b.param({4, 11});
  check_op(b, [&](Tape&, const Var& x) { return ops::rms_norm(x, w, 1e-5f); }, b.random({5, 11}), {&w});
  check_op(b, [&](Tape&, const Var& x) { return ops::layer_norm(x, w, bias, 1e-5f); }, b.random({5, 11}), {&w, &bias});
  check_op(b,
           [&](Tape&, const Var& x) {
             return ops::linear(ops::rms_norm(x, w, 1e-5f), {&m, nullptr, false});
           },
           b.random({5, 11}), {&w, &m});
}

TEST_CASE("head norm, rotary positions and attention with a window and documents") {
  Bench b;
  ops::HeadLayout layout{4, 2, 6};
  Param q = b.param({6}), k = b.param({6});
  nn::Rope rope(6, 100.0, {});
  Tensor positions = b.ints({0, 1, 2, 3, 4, 0, 1, 2, 3, 4});
  Tensor starts = b.ints({0, 0, 2, 2, 2, 0, 0, 0, 0, 4}).view({2, 5});
  auto op = [&](const Tensor& documents, int64_t window) {
    return [&, documents, window](Tape& tape, const Var& x) {
      Var qkv = ops::head_norm(x, q, k, layout, 1e-5f);
      qkv = ops::rope(qkv, positions, rope.table(5, tape.allocator()), layout);
      return ops::attention(qkv, {.batch = 2, .sequence = 5, .layout = layout, .scale = 0.4f, .window = window},
                            documents);
    };
  };
  check_op(b, op({}, 0), b.random({10, layout.width()}), {&q, &k});
  check_op(b, op({}, 2), b.random({10, layout.width()}), {&q, &k});
  check_op(b, op(starts, 3), b.random({10, layout.width()}), {&q, &k});
}

TEST_CASE("activations, gates and residuals") {
  Bench b;
  for (auto act : {ops::Activation::kSilu, ops::Activation::kGelu, ops::Activation::kGeluTanh}) {
    check_op(b, [&](Tape&, const Var& x) { return ops::activation(x, act); }, b.random({5, 7}), {});
    check_op(b, [&](Tape&, const Var& x) { return ops::gated(x, act); }, b.random({5, 14}), {});
  }
  check_op(b, [&](Tape&, const Var& x) { return ops::add(x, ops::activation(x, ops::Activation::kSilu)); },
           b.random({4, 3}), {});
  // The same value three times: gradients of shared memory must not mix.
  check_op(b, [&](Tape&, const Var& x) { return ops::add(ops::add(x, x), x); }, b.random({4, 3}), {});
}

TEST_CASE("the fused head: loss, and gradients along a direction") {
  Bench b;
  Param w = b.param({13, 6}), table = b.param({13, 6});
  Tensor labels = b.ints({3, -100, 12, 0, -100}), ids = b.ints({1, 5, 5, 12, 0});
  auto loss = [&](bool record) {
    w.has_grad = table.has_grad = false;
    Tape tape(*b.allocator, ops::add_into, record);
    ops::HeadLoss head = ops::head_loss(ops::embedding(tape, ids, table), w, labels, 0.5f);
    if (record) tape.backward(head.loss, head.loss.value);
    CHECK(head.token_losses.data<float>()[1] == 0);
    return *head.loss.value.data<double>();
  };
  loss(true);
  auto half = [&] { return 0.5 * loss(false); };
  Tensor dw = w.grad.clone(), dtable = table.grad.clone();
  check_direction(b, half, w.value, dw);
  check_direction(b, half, table.value, dtable);
}

TEST_CASE("deferred weight gradients and activation checkpointing change no bit") {
  Bench b;
  Param w = b.param({8, 8}), v = b.param({8, 8}), n = b.param({8});
  Tensor x = b.random({5, 8}), dy = b.random({5, 8});
  auto block = [&](const Var& in) {
    Var h = ops::linear(ops::rms_norm(in, n, 1e-5f), {&w, nullptr, false});
    return ops::add(in, ops::linear(ops::activation(h, ops::Activation::kGelu), {&v, nullptr, false}));
  };
  auto run = [&](bool checkpointed, Tape::Wgrads when) {
    for (Param* p : {&w, &v, &n}) p->has_grad = false;
    Tape tape(*b.allocator, ops::add_into, true);
    Var in = tape.input(x, true);
    Var y = checkpointed ? autograd::checkpoint(in, block) : block(in);
    tape.backward(y, dy.clone(), when);
    if (when == Tape::Wgrads::kLater) CHECK(!w.has_grad);
    tape.run_wgrads();
    std::vector<float> out;
    for (const Tensor& t : {tape.grad(in), w.grad, v.grad, n.grad})
      out.insert(out.end(), t.data<float>(), t.data<float>() + t.numel());
    return out;
  };
  auto plain = run(false, Tape::Wgrads::kNow);
  CHECK(run(false, Tape::Wgrads::kLater) == plain);
  CHECK(run(true, Tape::Wgrads::kNow) == plain);
  CHECK(run(true, Tape::Wgrads::kLater) == plain);
}

TEST_CASE("frozen weights keep no input and get no gradient") {
  Bench b;
  Param w = b.param({4, 4});
  w.requires_grad = false;
  Tape tape(*b.allocator, ops::add_into, true);
  Var in = tape.input(b.random({3, 4}), true);
  Var y = ops::linear(in, {&w, nullptr, false});
  CHECK(tape.saved_bytes() == 0);
  tape.backward(y, b.random({3, 4}));
  CHECK(!w.has_grad);
  CHECK(tape.grad(in).defined());
}

TEST_CASE("markers run in reverse, and memory comes back") {
  Bench b;
  int64_t before = b.allocator->stats().current_total;
  {
    std::vector<int> order;
    Tape tape(*b.allocator, ops::add_into, true);
    Var x = tape.input(b.random({3, 4}), true);
    tape.on_reverse([&] { order.push_back(1); });
    Var y = ops::activation(x, ops::Activation::kSilu);
    tape.on_reverse([&] { order.push_back(2); });
    CHECK(tape.saved_bytes() == 48);
    tape.backward(y, b.random({3, 4}));
    CHECK(order == std::vector<int>{2, 1});
    CHECK(tape.saved_bytes() == 0);
  }
  CHECK(b.allocator->stats().current_total == before);
}

TEST_CASE("dropout of activations and of attention weights") {
  Bench b;
  std::vector<int64_t> numbers{5, 9};
  Tensor samples = Tensor::wrap(numbers.data(), {2}, DType::kI64);
  Param w = b.param({11, 11});
  ops::DropoutArgs dropout{0.4f, 77, &samples};
  check_op(b,
           [&](Tape&, const Var& x) {
             return ops::dropout(ops::linear(x, {&w, nullptr, false}), dropout);
           },
           b.random({10, 11}), {&w});
  // Behind a residual connection, whose gradient belongs to another op too.
  check_op(b,
           [&](Tape&, const Var& x) {
             return ops::add(x, ops::dropout(ops::linear(x, {&w, nullptr, false}), dropout));
           },
           b.random({10, 11}), {&w});
  ops::HeadLayout layout{4, 2, 6};
  for (int64_t window : {0, 3})
    check_op(b,
             [&](Tape&, const Var& x) {
               return ops::attention(
                   x,
                   {.batch = 2, .sequence = 7, .layout = layout, .scale = 0.4f, .window = window, .dropout = dropout},
                   {});
             },
             b.random({14, layout.width()}), {});
}

// A mixture of experts as ops: gradients against finite differences, and the same numbers however the experts are
// shared.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "comm/planning.h"
#include "core/error.h"
#include "core/rng.h"
#include "ops/moe.h"
#include "ops/pointwise.h"
#include "support/distance.h"
#include "support/run_mesh.h"

using namespace automodel;
using autograd::Param;
using autograd::Tape;
using autograd::Var;

using test::distance;

namespace {

constexpr int64_t kWidth = 12, kInner = 8, kExperts = 8, kChoices = 2;

Tensor random_tensor(Shape shape, uint64_t stream, Allocator& allocator, float scale = 1) {
  Tensor t = Tensor::empty(shape, DType::kF32, allocator);
  Random numbers(5, stream);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = scale * numbers.normal(static_cast<uint64_t>(i));
  return t;
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += static_cast<double>(a.data<float>()[i]) * b.data<float>()[i];
  return sum;
}

std::vector<float> values(const Tensor& t) {
  return {t.data<float>(), t.data<float>() + t.numel()};
}

// The weights of a layer; those of experts [begin, end) have memory, the others must not be touched. An expert's lie
// one after the other, as in a unit.
struct Layer {
  Layer(Allocator& allocator, int64_t begin, int64_t end) : begin(begin) {
    router.value = random_tensor({kExperts, kWidth}, 1000, allocator, 0.5f);
    router.grad = Tensor::zeros({kExperts, kWidth}, DType::kF32, allocator);
    constexpr int64_t kOne = kWidth * kInner;
    for (int64_t e = 0; e < kExperts; ++e) {
      if (e >= begin && e < end) {
        Tensor value = random_tensor({3 * kOne}, 2000 + static_cast<uint64_t>(e), allocator, 0.4f);
        Tensor grad = Tensor::zeros({3 * kOne}, DType::kF32, allocator);
        for (int part = 0; part < 3; ++part) {
          Shape shape = part == 2 ? Shape{kWidth, kInner} : Shape{kInner, kWidth};
          weights[e][part].value = value.narrow(part * kOne, kOne).view(shape);
          weights[e][part].grad = grad.narrow(part * kOne, kOne).view(shape);
        }
        own.push_back({{ops::Projection{&weights[e][0]}, ops::Projection{&weights[e][1]}}, {&weights[e][2]}});
      }
    }
  }
  std::vector<Param*> params() {
    std::vector<Param*> out{&router};
    for (auto& expert : weights)
      for (Param& p : expert)
        if (p.value.defined()) out.push_back(&p);
    return out;
  }

  int64_t begin;
  Param router;
  Param weights[kExperts][3];
  std::vector<ops::Expert> own;
};

struct Options {
  ops::RoutedRows rows;
  ops::Balance balance;
  bool renormalise = true;
  Tensor bias;
  comm::Communicator* ranks = nullptr;
};

struct Result {
  Var y;
  Tensor balance;
};

Result mixture(const Var& x, Layer& layer, const Options& o) {
  ops::Router router{&layer.router, kChoices, o.renormalise, o.bias};
  ops::Routing routing = ops::route(x, router, o.rows, o.balance);
  return {ops::experts(x, routing, layer.own, {ops::Activation::kSilu, o.ranks}), routing.balance};
}

// Two samples of five tokens, and two rows of padding.
Options two_samples(Allocator& allocator, bool renormalise) {
  Options o;
  o.rows = {10, 0, 2, 5};
  o.renormalise = renormalise;
  o.balance.scale = 0.3f;
  o.balance.labels = Tensor::empty({10}, DType::kI32, allocator);
  for (int i = 0; i < 10; ++i) o.balance.labels.data<int32_t>()[i] = i % 3 == 1 ? -100 : i;
  return o;
}

}  // namespace

TEST_CASE("the gradient of a mixture of experts and of its balance loss is that of finite differences") {
  auto allocator = make_cpu_allocator();
  for (bool renormalise : {false, true}) {
    Layer layer(*allocator, 0, kExperts);
    Options o = two_samples(*allocator, renormalise);
    Tensor x = random_tensor({12, kWidth}, 1, *allocator), c = random_tensor({12, kWidth}, 2, *allocator);
    // <y, c> + scale * (labels of the sample) * (loss of the sample)
    auto value = [&] {
      Tape tape(*allocator, ops::add_into, true);
      Result r = mixture(tape.input(x.clone(), true), layer, o);
      double sum = dot(r.y.value, c);
      const double labels[2] = {3, 4};
      for (int s = 0; s < 2; ++s) sum += static_cast<double>(o.balance.scale) * labels[s] * r.balance.data<float>()[s];
      return sum;
    };
    Tape tape(*allocator, ops::add_into, true);
    Var in = tape.input(x.clone(), true);
    Result r = mixture(in, layer, o);
    for (int64_t i = 10 * kWidth; i < 12 * kWidth; ++i) CHECK(r.y.value.data<float>()[i] == 0);
    tape.backward(r.y, c.clone());
    std::vector<std::pair<Tensor, Tensor>> all{{x, tape.grad(in)}};
    int64_t without = 0;
    for (Param* p : layer.params()) {
      if (p->has_grad)
        all.emplace_back(p->value, p->grad);
      else
        ++without;
    }
    CHECK(without % 3 == 0);  // whole experts that nobody chose
    uint64_t stream = 50;
    for (auto& [at, gradient] : all) {
      Tensor v = random_tensor(at.shape(), ++stream, *allocator), base = at.clone();
      constexpr float kStep = 5e-4f;
      auto moved = [&](float h) {
        for (int64_t i = 0; i < at.numel(); ++i) at.data<float>()[i] = base.data<float>()[i] + h * v.data<float>()[i];
        double y = value();
        copy(at, base);
        return y;
      };
      double numeric = (moved(kStep) - moved(-kStep)) / (2.0 * kStep);
      CHECK(std::abs(numeric - dot(gradient, v)) < 5e-3 * (std::sqrt(dot(gradient, gradient)) + 0.1));
    }
  }
}

TEST_CASE("the balance loss reaches the router only, weighted by its scale") {
  auto allocator = make_cpu_allocator();
  auto router_gradient = [&](float scale) {
    Layer layer(*allocator, 0, kExperts);
    Options o = two_samples(*allocator, true);
    o.balance.scale = scale;
    Tape tape(*allocator, ops::add_into, true);
    Result r = mixture(tape.input(random_tensor({12, kWidth}, 1, *allocator), true), layer, o);
    CHECK(r.balance.defined() == (scale != 0));
    Tensor dy = Tensor::zeros({12, kWidth}, DType::kF32, *allocator);
    tape.backward(r.y, dy);
    for (Param* p : layer.params())
      if (p != &layer.router && p->has_grad) CHECK(dot(p->grad, p->grad) == 0);
    return values(layer.router.grad);
  };
  auto none = router_gradient(0), one = router_gradient(0.5f), two = router_gradient(1);
  double norm = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    CHECK(none[i] == 0);
    CHECK(two[i] == doctest::Approx(2 * one[i]).epsilon(1e-5));
    norm += std::pow(one[i], 2);
  }
  CHECK(norm > 1e-6);
}

namespace {

// What a job of eight ranks computes when groups of `sharing` of them share the experts: by rank the outputs and the
// gradients of the inputs, and the gradients of the weights summed over all ranks.
struct Trace {
  std::vector<std::vector<float>> y, dx;
  std::map<std::string, std::vector<double>> gradients;
};

Trace run_shared(int sharing, Tape::Wgrads when) {
  constexpr int kRanks = 8;
  Trace trace;
  trace.y.resize(kRanks), trace.dx.resize(kRanks);
  std::mutex mutex;
  test::run_mesh(kRanks, [&](comm::World& world) {
    int rank = world.rank();
    auto ep = world.global().split(rank / sharing, rank % sharing, "ep");
    auto allocator = make_cpu_allocator();
    int64_t each = kExperts / sharing, begin = each * (rank % sharing);
    Layer layer(*allocator, begin, begin + each);
    Options o;
    o.ranks = ep.get();
    // Rank 3 has one token, rank 5 none at all; the others have some, and padding. Nobody chooses expert 6.
    int64_t rows = rank == 3 ? 1 : 20 + rank, count = rank == 5 ? 0 : rank == 3 ? 1 : rows - 2;
    o.rows = {count, 0, 1, rows};
    o.bias = Tensor::zeros({kExperts}, DType::kF32, *allocator);
    o.bias.data<float>()[6] = -10;
    Tape tape(*allocator, ops::add_into, true);
    Var x = tape.input(random_tensor({rows, kWidth}, 10 + static_cast<uint64_t>(rank), *allocator), true);
    Var y = mixture(x, layer, o).y;
    Tensor out = y.value.clone();
    tape.backward(y, random_tensor({rows, kWidth}, 30 + static_cast<uint64_t>(rank), *allocator), when);
    if (when == Tape::Wgrads::kLater) {
      for (Param* p : layer.params()) CHECK(!p->has_grad);
      tape.run_wgrads();
    }
    std::lock_guard lock(mutex);
    trace.y[size_t(rank)] = values(out);
    trace.dx[size_t(rank)] = values(tape.grad(x));
    auto add = [&](const std::string& name, const Param& p) {
      if (!p.has_grad) return;
      auto& sum = trace.gradients[name];
      sum.resize(static_cast<size_t>(p.grad.numel()), 0);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += p.grad.data<float>()[i];
    };
    add("router", layer.router);
    for (int64_t e = begin; e < begin + each; ++e)
      for (int part = 0; part < 3; ++part) add(std::to_string(e) + "." + std::to_string(part), layer.weights[e][part]);
  });
  return trace;
}

}  // namespace

TEST_CASE("however many ranks share the experts, outputs have the same bits and gradients are the same") {
  Trace alone = run_shared(1, Tape::Wgrads::kNow);
  CHECK(alone.gradients.size() == 1 + 3 * (kExperts - 1));
  CHECK(!alone.gradients.contains("6.0"));
  for (int sharing : {2, 4, 8})
    for (auto when : {Tape::Wgrads::kNow, Tape::Wgrads::kLater}) {
      CAPTURE(sharing);
      Trace shared = run_shared(sharing, when);
      CHECK(shared.y == alone.y);
      for (size_t r = 0; r < alone.dx.size(); ++r) CHECK(distance(shared.dx[r], alone.dx[r]) < 1e-6);
      REQUIRE(shared.gradients.size() == alone.gradients.size());
      for (const auto& [name, gradient] : alone.gradients) {
        CAPTURE(name);
        CHECK(distance(shared.gradients[name], gradient) < 1e-6);
      }
    }
}

TEST_CASE("a rank that fails in the middle of an exchange ends the others") {
  CHECK_THROWS_WITH_AS(test::run_mesh(4,
                                      [&](comm::World& world) {
                                        auto allocator = make_cpu_allocator();
                                        int64_t begin = 2 * world.rank();
                                        Layer layer(*allocator, begin, begin + 2);
                                        Options o;
                                        o.rows = {6, 0, 1, 6};
                                        o.ranks = &world.global();
                                        if (world.rank() == 2) fail(Fault::kRun, "rank 2 stops");
                                        Tape tape(*allocator, ops::add_into, false);
                                        mixture(tape.input(random_tensor({6, kWidth}, 1, *allocator)), layer, o);
                                      }),
                       "rank 2 stops", Error);
}

TEST_CASE("a plan makes the calls of a run, with equal shares for all experts") {
  constexpr int64_t kRows = 16, kCopies = kRows * kChoices;
  auto calls_of = [](comm::Communicator& ranks, Allocator& allocator, Layer& layer) {
    Options o;
    o.rows = {kRows, 0, 1, kRows};
    o.ranks = &ranks;
    Tape tape(allocator, ops::add_into, true);
    bool meta = allocator.device().is_meta();
    auto make = [&](uint64_t stream) {
      return meta ? Tensor::empty({kRows, kWidth}, DType::kF32, allocator)
                  : random_tensor({kRows, kWidth}, stream, allocator);
    };
    Var y = mixture(tape.input(make(1), true), layer, o).y;
    tape.backward(y, make(2));
  };
  std::vector<comm::CallRecord> planned, made;
  auto planning = comm::make_planning(
      1, 4, [&](const comm::CallRecord& c) { planned.push_back(c); }, "ep");
  auto meta = make_meta_allocator();
  auto unused = make_cpu_allocator();
  Layer layer(*unused, 0, 0);
  for (int64_t e = 2; e < 4; ++e) {
    for (int part = 0; part < 3; ++part) {
      Shape shape = part == 2 ? Shape{kWidth, kInner} : Shape{kInner, kWidth};
      layer.weights[e][part].value = layer.weights[e][part].grad = Tensor::empty(shape, DType::kF32, *meta);
    }
    layer.own.push_back(
        {{ops::Projection{&layer.weights[e][0]}, ops::Projection{&layer.weights[e][1]}}, {&layer.weights[e][2]}});
  }
  layer.router.value = layer.router.grad = Tensor::empty({kExperts, kWidth}, DType::kF32, *meta);
  calls_of(*planning, *meta, layer);
  test::run_mesh(4, [&](comm::World& world) {
    auto allocator = make_cpu_allocator();
    Layer own(*allocator, 2 * world.rank(), 2 * world.rank() + 2);
    std::vector<int> all{0, 1, 2, 3};
    auto ep = comm::make_recording(world.global().group(all, "ep"), [&](const comm::CallRecord& c) {
      if (world.rank() == 1) made.push_back(c);
    });
    calls_of(*ep, *allocator, own);
  });
  // Counts; copies and weights there, results back; gradients there, those of weights and of copies back.
  REQUIRE(planned.size() == 7);
  REQUIRE(made.size() == 7);
  const int64_t others = kCopies * 3 / 4, row = kWidth * 4;
  const int64_t bytes[] = {3 * 2 * 8, others * row, others * 4, others * row, others * row, others * 4, others * row};
  for (size_t i = 0; i < planned.size(); ++i) {
    CHECK(planned[i].call == comm::Call::kAllToAll);
    CHECK(made[i].call == comm::Call::kAllToAll);
    CHECK(planned[i].bytes == bytes[i]);
  }
}

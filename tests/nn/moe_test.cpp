// The layer of experts: on tensor-, context- and expert-parallel ranks, in repeated forwards, and kept in balance.
#include "nn/moe.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "autograd/checkpoint.h"
#include "core/error.h"
#include "core/rng.h"
#include "ops/pointwise.h"
#include "support/distance.h"
#include "support/run_mesh.h"

using namespace automodel;
using autograd::Tape;
using autograd::Var;

using test::distance;

namespace {

constexpr int64_t kWidth = 10, kInner = 6, kExperts = 8, kBatch = 3, kSequence = 9, kRows = kBatch * kSequence;

nn::MoeSpec spec_of() {
  nn::MoeSpec spec;
  spec.hidden = kWidth;
  spec.inner = kInner;
  spec.experts = kExperts;
  spec.top_k = 2;
  spec.renormalise = true;
  spec.init_std = 0.5f;
  return spec;
}

Tensor random_tensor(Shape shape, uint64_t stream, Allocator& allocator) {
  Tensor t = Tensor::empty(shape, DType::kF32, allocator);
  Random numbers(5, stream);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = numbers.normal(static_cast<uint64_t>(i));
  return t;
}

std::vector<float> values(const Tensor& t) {
  return {t.data<float>(), t.data<float>() + t.numel()};
}

// Memory for the weights of the experts [first, last) and of the router; the others have none.
void give_memory(nn::MoeMlp& layer, int first, int last, Allocator& allocator) {
  std::vector<nn::Param*> params;
  layer.collect(params);
  for (nn::Param* p : params) {
    if (p->expert >= 0 && (p->expert < first || p->expert >= last)) continue;
    p->value = Tensor::empty(p->shape, DType::kF32, allocator);
    p->grad = Tensor::zeros(p->shape, DType::kF32, allocator);
    nn::initialise(*p, 11, 0, p->shape.numel(), p->value.data<float>());
  }
}

// Of these positions of each sample.
nn::Tokens some_tokens(const std::vector<int64_t>& positions, Allocator& allocator) {
  nn::Tokens tokens;
  tokens.batch = kBatch;
  tokens.sequence = static_cast<int64_t>(positions.size());
  tokens.whole_sequence = kSequence;
  tokens.labels = Tensor::empty({tokens.count()}, DType::kI32, allocator);
  for (int64_t row = 0; row < kBatch; ++row)
    for (size_t i = 0; i < positions.size(); ++i)
      tokens.labels.data<int32_t>()[row * tokens.sequence + static_cast<int64_t>(i)] =
          positions[i] >= kSequence || positions[i] % 5 == row || row == 1 ? -100 : 1;
  tokens.objective_scale = 0.1f;
  return tokens;
}

struct Trace {
  std::vector<float> y, dx;                              // of all rows
  std::map<std::string, std::vector<double>> gradients;  // summed over the ranks
  std::vector<int64_t> load = std::vector<int64_t>(kExperts, 0);
};

struct Mesh {
  int tp = 1;
  int cp = 1;
  bool rows = false;  // sequence parallelism
  bool ep = false;    // over all ranks
};

// The positions of a sample that a context-parallel rank has: a chunk of the head and one of the tail, padded.
std::vector<int64_t> positions_of(const Mesh& mesh, int cp_rank) {
  std::vector<int64_t> out;
  int64_t chunk = (kSequence + 2 * mesh.cp - 1) / (2 * mesh.cp);
  for (int64_t s = 0; mesh.cp == 1 && s < kSequence; ++s) out.push_back(s);
  for (int64_t first : {cp_rank, 2 * mesh.cp - 1 - cp_rank})
    for (int64_t s = 0; mesh.cp > 1 && s < chunk; ++s) out.push_back(first * chunk + s);
  return out;
}

// Rows of [kRows, kWidth] that a rank of the mesh has: of each sample the cp rank's part, and of these the tp rank's.
// A negative row is padding.
std::vector<int64_t> rows_of(const Mesh& mesh, int cp_rank, int tp_rank) {
  std::vector<int64_t> all, own;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t position : positions_of(mesh, cp_rank))
      all.push_back(position < kSequence ? b * kSequence + position : -1);
  if (!mesh.rows) return all;
  auto each = (static_cast<int64_t>(all.size()) + mesh.tp - 1) / mesh.tp;
  for (int64_t i = each * tp_rank; i < each * (tp_rank + 1); ++i)
    own.push_back(i < static_cast<int64_t>(all.size()) ? all[static_cast<size_t>(i)] : -1);
  return own;
}

Tensor picked(const Tensor& all, const std::vector<int64_t>& rows, Allocator& allocator) {
  Tensor out = Tensor::zeros({static_cast<int64_t>(rows.size()), kWidth}, DType::kF32, allocator);
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] >= 0) copy(out.narrow(static_cast<int64_t>(i), 1), all.narrow(rows[i], 1));
  return out;
}

Trace run(const Mesh& mesh) {
  Trace trace;
  trace.y.resize(kRows * kWidth), trace.dx.resize(kRows * kWidth);
  std::mutex mutex;
  test::run_mesh(mesh.tp * mesh.cp, [&](comm::World& world) {
    auto allocator = make_cpu_allocator();
    int tp_rank = world.rank() % mesh.tp, cp_rank = world.rank() / mesh.tp;
    auto tp = world.global().split(cp_rank, tp_rank, "tp"), cp = world.global().split(tp_rank, cp_rank, "cp");
    nn::Parallel ranks;
    if (mesh.tp > 1) ranks.tp = tp.get();
    if (mesh.cp > 1) ranks.cp = cp.get();
    if (mesh.ep) ranks.ep = &world.global();
    ranks.sequence_parallel = mesh.rows;
    nn::MoeSpec spec = spec_of();
    spec.balance_coefficient = 0.7f;
    spec.bias_step = 0.01f;  // so that the load is counted
    nn::MoeMlp layer("moe.", spec);
    int each = mesh.ep ? static_cast<int>(kExperts) / world.size() : static_cast<int>(kExperts);
    int first = mesh.ep ? each * world.rank() : 0;
    give_memory(layer, first, first + each, *allocator);

    nn::Tokens tokens = some_tokens(positions_of(mesh, cp_rank), *allocator);
    tokens.parallel = &ranks;
    std::vector<int64_t> rows = rows_of(mesh, cp_rank, tp_rank);
    Tensor x = random_tensor({kRows, kWidth}, 1, *allocator), dy = random_tensor({kRows, kWidth}, 2, *allocator);
    Tape tape(*allocator, ops::add_into, true);
    Var in = tape.input(picked(x, rows, *allocator), true);
    Var y = layer.forward(in, tokens);
    Tensor out = y.value.clone();
    tape.backward(y, picked(dy, rows, *allocator));

    std::lock_guard lock(mutex);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0) continue;
      std::copy_n(out.data<float>() + static_cast<int64_t>(i) * kWidth, kWidth, trace.y.begin() + rows[i] * kWidth);
      std::copy_n(tape.grad(in).data<float>() + static_cast<int64_t>(i) * kWidth, kWidth,
                  trace.dx.begin() + rows[i] * kWidth);
    }
    for (size_t e = 0; e < layer.load().size(); ++e) trace.load[e] += layer.load()[e];
    std::vector<nn::Param*> params;
    layer.collect(params);
    for (nn::Param* p : params) {
      CHECK(p->common == nn::CommonGradient::kPartial);
      if (!p->has_grad) continue;
      auto& sum = trace.gradients[p->name];
      sum.resize(static_cast<size_t>(p->grad.numel()), 0);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += p->grad.data<float>()[i];
    }
  });
  return trace;
}

}  // namespace

TEST_CASE("the layer's weights come expert by expert, under the names of the family") {
  nn::MoeSpec spec = spec_of();
  spec.names = {"gate", "w1", "w3", "w2"};
  nn::MoeMlp layer("model.layers.3.block_sparse_moe.", spec);
  std::vector<nn::Param*> params;
  layer.collect(params);
  REQUIRE(params.size() == 1 + 3 * kExperts);
  CHECK(params[0]->name == "model.layers.3.block_sparse_moe.gate.weight");
  CHECK(params[0]->shape == Shape{kExperts, kWidth});
  CHECK(params[0]->expert == -1);
  CHECK(params[4]->name == "model.layers.3.block_sparse_moe.experts.1.w1.weight");
  CHECK(params[5]->name == "model.layers.3.block_sparse_moe.experts.1.w3.weight");
  CHECK(params[6]->name == "model.layers.3.block_sparse_moe.experts.1.w2.weight");
  CHECK(params[6]->shape == Shape{kWidth, kInner});
  CHECK(params[6]->expert == 1);
}

TEST_CASE("a layer of experts gives the same on tensor-, context- and expert-parallel ranks, balance loss included") {
  Trace one = run({});
  CHECK(std::accumulate(one.load.begin(), one.load.end(), int64_t{0}) == 2 * kRows);
  for (const Mesh& mesh : {Mesh{.tp = 2},
                           {.tp = 4, .rows = true},
                           {.tp = 5},
                           {.tp = 7, .rows = true},
                           {.cp = 2},
                           {.cp = 4, .ep = true},
                           {.tp = 2, .cp = 2},
                           {.tp = 2, .cp = 4, .rows = true, .ep = true},
                           {.tp = 8, .ep = true},
                           {.tp = 8, .rows = true, .ep = true}}) {
    INFO("tp ", mesh.tp, ", cp ", mesh.cp, mesh.rows ? ", rows" : "", mesh.ep ? ", ep" : "");
    Trace many = run(mesh);
    CHECK(many.y == one.y);
    CHECK(distance(many.dx, one.dx) < 1e-6);
    CHECK(many.load == one.load);
    REQUIRE(many.gradients.size() == one.gradients.size());
    for (const auto& [name, gradient] : one.gradients) {
      CAPTURE(name);
      CHECK(distance(many.gradients[name], gradient) < 2e-6);
    }
  }
}

TEST_CASE("a repeated forward chooses the same experts and counts them once; a forward without gradient counts none") {
  auto allocator = make_cpu_allocator();
  nn::MoeSpec spec = spec_of();
  spec.balance_coefficient = 0.7f;
  spec.bias_step = 0.01f;
  nn::Tokens tokens = some_tokens(positions_of({}, 0), *allocator);
  Tensor x = random_tensor({kRows, kWidth}, 1, *allocator), dy = random_tensor({kRows, kWidth}, 2, *allocator);
  struct Outcome {
    std::vector<float> y, dx, router;
    std::vector<int64_t> load;
    bool operator==(const Outcome&) const = default;
  };
  auto outcome = [&](std::optional<autograd::Recall> repeats) {
    nn::MoeMlp layer("moe.", spec);
    give_memory(layer, 0, kExperts, *allocator);
    Tape quiet(*allocator, ops::add_into, false);
    layer.forward(quiet.input(x.clone()), tokens);
    CHECK(layer.load() == std::vector<int64_t>(kExperts, 0));
    Tape tape(*allocator, ops::add_into, true);
    Var in = tape.input(x.clone(), true);
    auto block = [&](const Var& v) { return layer.forward(v, tokens); };
    Var y = repeats ? autograd::checkpoint(in, block, {.recall = *repeats, .ends_in_sum = true}) : block(in);
    Tensor out = y.value.clone();
    tape.backward(y, dy.clone());
    std::vector<nn::Param*> params;
    layer.collect(params);
    return Outcome{values(out), values(tape.grad(in)), values(params[0]->grad), layer.load()};
  };
  Outcome once = outcome({});
  using autograd::Recall;
  for (Recall recall : {Recall::kNothing, Recall::kRouting, Recall::kSelected}) CHECK(once == outcome(recall));
  CHECK(std::accumulate(once.load.begin(), once.load.end(), int64_t{0}) == 2 * kRows);
}

TEST_CASE("the selection bias moves by one step against the load, and balances it in time") {
  auto allocator = make_cpu_allocator();
  nn::MoeSpec spec = spec_of();
  nn::MoeMlp plain("moe.", spec);
  CHECK(plain.bias().empty());
  CHECK_THROWS_AS(plain.update_bias(plain.load()), Error);

  spec.bias_step = 0.125f;
  nn::MoeMlp one("moe.", spec);
  one.update_bias(std::vector<int64_t>{0, 5, 5, 5, 5, 5, 5, 10});
  CHECK(one.bias() == std::vector<float>{0.125f, 0, 0, 0, 0, 0, 0, -0.125f});

  spec.bias_step = 0.004f;
  nn::MoeMlp layer("moe.", spec);
  give_memory(layer, 0, kExperts, *allocator);
  std::vector<nn::Param*> params;
  layer.collect(params);
  // Inputs that all look alike: without a bias nearly every token wants the same experts.
  Tensor x = random_tensor({kRows, kWidth}, 1, *allocator);
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = 0.3f * x.data<float>()[i] + 0.5f;
  nn::Tokens tokens = some_tokens(positions_of({}, 0), *allocator);
  // The largest load of an expert as a multiple of the mean, over so many steps.
  auto unevenness = [&](int steps, bool updates) {
    std::vector<int64_t> sum(kExperts, 0);
    for (int step = 0; step < steps; ++step) {
      layer.clear_load();
      Tape tape(*allocator, ops::add_into, true);
      layer.forward(tape.input(x.clone(), true), tokens);
      for (size_t e = 0; e < sum.size(); ++e) sum[e] += layer.load()[e];
      if (updates) layer.update_bias(layer.load());
    }
    return static_cast<double>(*std::ranges::max_element(sum)) * kExperts /
           static_cast<double>(std::accumulate(sum.begin(), sum.end(), int64_t{0}));
  };
  CHECK(unevenness(1, false) > 2);
  unevenness(200, true);
  CHECK(unevenness(100, true) < 1.5);
}

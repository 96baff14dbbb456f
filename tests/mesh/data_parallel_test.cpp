// The same job on 1, 2, 3 and 4 data-parallel ranks (threads), ddp and fsdp2 (ARCHITECTURE law 2).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "support/engine_fixture.h"
#include "support/run_mesh.h"

using namespace automodel;

namespace {

const char* const kLlama = R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true,
  "max_position_embeddings": 64, "initializer_range": 0.2})";
const char* const kGpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 20, "n_layer": 2, "n_head": 2,
  "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0})";
const char* const kDroppingGpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 20, "n_layer": 2, "n_head": 2,
  "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3})";
const char* const kDroppingLlama = R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
  "tie_word_embeddings": true, "max_position_embeddings": 64, "initializer_range": 0.2, "attention_dropout": 0.25})";

constexpr int64_t kGlobalBatch = 24;
constexpr int64_t kLength = 13;

struct Job {
  const char* config = kLlama;
  int ranks = 1;
  engine::EngineOptions options;
  int steps = 20;
  int64_t accumulation = 2;
  int stop = 0;  // after so many steps another engine goes on with the state of the first; 0: never
};

struct Trace {
  std::vector<double> losses;
  std::vector<float> norms;
  std::map<std::string, std::vector<float>> weights;
};

// Sample `position` of step `step`: ragged label counts, and every sample at an odd multiple of 4 is without any label
// (with 4 ranks, a whole microbatch of one of them is).
std::pair<std::vector<int32_t>, std::vector<int32_t>> sample(int step, int64_t position, int vocab) {
  Random random(7, hash_name("sample " + std::to_string(step) + " " + std::to_string(position)));
  std::vector<int32_t> ids, labels;
  int64_t ignored = position % 4 == 1 ? kLength : static_cast<int64_t>(random.below(kLength, 1000));
  for (int64_t t = 0; t < kLength; ++t) {
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(t))));
    auto next = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(t) + 1));
    labels.push_back(t < ignored ? -100 : next);
  }
  return {ids, labels};
}

std::vector<nn::Tokens> microbatches(int step, int64_t accumulation, int rank, int ranks, int vocab) {
  int64_t local = kGlobalBatch / (accumulation * ranks);
  std::vector<nn::Tokens> out;
  for (int64_t a = 0; a < accumulation; ++a) {
    std::vector<int32_t> ids, labels;
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < local; ++i) {
      numbers.push_back(ranks * (a * local + i) + rank);
      auto [x, y] = sample(step, numbers.back(), vocab);
      ids.insert(ids.end(), x.begin(), x.end());
      labels.insert(labels.end(), y.begin(), y.end());
    }
    out.push_back(support::make_tokens(local, kLength, ids, labels));
    out.back().samples = Tensor::empty({local}, DType::kI64, support::token_memory());
    std::memcpy(out.back().samples.raw(), numbers.data(), out.back().samples.bytes());
  }
  return out;
}

int64_t label_count(int step, int vocab) {
  int64_t n = 0;
  for (int64_t p = 0; p < kGlobalBatch; ++p) {
    auto labels = sample(step, p, vocab).second;
    n += std::ranges::count_if(labels, [](int32_t l) { return l >= 0; });
  }
  return n;
}

// Puts another engine with the same state into the place of one.
void start_again(std::optional<engine::Engine>& engine, models::CausalLM& model, comm::World& world,
                 Allocator& allocator, const engine::EngineOptions& options) {
  std::vector<std::vector<float>> kept;
  for (const auto& s : engine->state())
    for (const float* from : {s.master, s.exp_avg, s.exp_avg_sq}) kept.emplace_back(from, from + (s.end - s.begin));
  int64_t updates = engine->updates();
  engine.reset();
  engine.emplace(model, world.global(), allocator, options);
  auto next = kept.begin();
  for (const auto& s : engine->state())
    for (float* to : {s.master, s.exp_avg, s.exp_avg_sq}) std::ranges::copy(*next++, to);
  engine->set_updates(updates);
  engine->publish();
}

void train(const Job& job, comm::World& world, Trace& trace, std::mutex& mutex) {
  auto allocator = make_cpu_allocator();
  auto model = models::build(config::parse_json(job.config, "config.json"));
  std::optional<engine::Engine> engine(std::in_place, *model, world.global(), *allocator, job.options);
  engine->initialise(42);
  auto vocab = static_cast<int>(model->info().vocab_size);
  for (int step = 0; step < job.steps; ++step) {
    if (job.stop > 0 && step == job.stop) start_again(engine, *model, world, *allocator, job.options);
    auto batches = microbatches(step, job.accumulation, world.rank(), world.size(), vocab);
    auto result = engine->step({batches, label_count(step, vocab), 3e-3, 0.1});
    if (!world.is_main()) continue;
    trace.losses.push_back(result.loss);
    trace.norms.push_back(result.grad_norm);
  }
  std::lock_guard lock(mutex);
  for (const auto& s : engine->state()) {
    auto& whole = trace.weights[s.param->name];
    whole.resize(static_cast<size_t>(s.param->shape.numel()));
    std::copy(s.master, s.master + (s.end - s.begin), whole.begin() + s.begin);
  }
}

Trace run(const Job& job) {
  Trace trace;
  std::mutex mutex;
  test::run_mesh(job.ranks, [&](comm::World& world) { train(job, world, trace, mutex); });
  return trace;
}

engine::EngineOptions options(bool shard, DType param = DType::kF32) {
  engine::EngineOptions o;
  o.unit = {shard, param, DType::kF32};
  o.adam = {.decoupled = true, .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
  o.max_grad_norm = 0.5;  // below the norms seen: clipping acts in every step
  return o;
}

void check_close(const Trace& a, const Trace& b) {
  REQUIRE(a.losses.size() == b.losses.size());
  CHECK(std::abs(a.losses[0] - b.losses[0]) <= 1e-6 * b.losses[0]);
  for (size_t i = 0; i < a.losses.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(a.losses[i] - b.losses[i]) <= 1e-5 * b.losses[i]);
    CHECK(std::abs(a.norms[i] - b.norms[i]) <= 1e-4 * b.norms[i]);
  }
}

void check_identical(const Trace& a, const Trace& b) {
  CHECK(a.losses == b.losses);
  CHECK(a.norms == b.norms);
  REQUIRE(a.weights.size() == b.weights.size());
  for (const auto& [name, values] : a.weights) {
    CAPTURE(name);
    CHECK(std::memcmp(values.data(), b.weights.at(name).data(), values.size() * sizeof(float)) == 0);
  }
}

}  // namespace

TEST_CASE("2, 3 and 4 ranks of ddp and fsdp2 train as one rank does, and ddp equals fsdp2 bit for bit") {
  for (const char* config : {kLlama, kGpt2}) {
    Trace one = run({config, 1, options(true)});
    CHECK(one.norms[0] > 0.5);
    CHECK(one.losses.back() != one.losses.front());
    for (int ranks : {2, 3, 4}) {
      CAPTURE(ranks);
      Trace fsdp = run({config, ranks, options(true)});
      Trace ddp = run({config, ranks, options(false)});
      check_close(fsdp, one);
      check_identical(ddp, fsdp);
    }
  }
}

TEST_CASE("one rank gives the same bits as ddp and as fsdp2") {
  check_identical(run({kLlama, 1, options(true)}), run({kLlama, 1, options(false)}));
}

TEST_CASE("replicas of sharded weights train as ddp does, bit for bit, when the shards are a power of two") {
  for (const char* config : {kLlama, kGpt2})
    for (auto [ranks, replicas] : {std::pair(4, 1), {4, 2}, {4, 4}, {8, 2}, {8, 4}, {6, 3}}) {
      CAPTURE(ranks);
      CAPTURE(replicas);
      auto o = options(true);
      o.unit.replicas = replicas;
      Trace hsdp = run({config, ranks, o, 8});
      check_identical(hsdp, run({config, ranks, options(false), 8}));
      o.unit.param_dtype = DType::kBF16;
      check_identical(run({config, ranks, o, 4}), run({config, ranks, options(false, DType::kBF16), 4}));
    }
}

TEST_CASE("replicas of three shards train as one rank does") {
  Trace one = run({kLlama, 1, options(true)});
  auto o = options(true);
  o.unit.replicas = 2;
  check_close(run({kLlama, 6, o}), one);
}

TEST_CASE("keeping the gathered weights changes no bit") {
  for (DType param : {DType::kF32, DType::kBF16}) {
    auto o = options(true, param);
    Trace base = run({kLlama, 4, o, 6});
    o.unit.keep_gathered = true;
    check_identical(base, run({kLlama, 4, o, 6}));
    o.unit.replicas = 2;
    check_identical(base, run({kLlama, 4, o, 6}));
  }
}

TEST_CASE("repetition, prefetch, resharding and activation checkpointing do not change a bit") {
  for (DType param : {DType::kF32, DType::kBF16}) {
    Trace base = run({kLlama, 2, options(true, param), 6});
    check_identical(base, run({kLlama, 2, options(true, param), 6}));
    auto no_prefetch = options(true, param);
    no_prefetch.prefetch = no_prefetch.prefetch_backward = 0;
    check_identical(base, run({kLlama, 2, no_prefetch, 6}));
    auto deep = options(true, param);
    deep.prefetch = 2;
    deep.prefetch_backward = 3;
    check_identical(base, run({kLlama, 2, deep, 6}));
    for (bool reshard : {false, true}) {
      auto o = options(true, param);
      o.reshard_after_forward = reshard;
      check_identical(base, run({kLlama, 2, o, 6}));
    }
    auto checkpointed = options(true, param);
    checkpointed.activation_checkpointing = true;
    check_identical(base, run({kLlama, 2, checkpointed, 6}));
  }
}

TEST_CASE("reducing after every microbatch gives the same training within rounding") {
  Trace deferred = run({kLlama, 2, options(true)});
  auto eager = options(true);
  eager.defer_reduce = false;
  Trace every = run({kLlama, 2, eager});
  check_close(every, deferred);
  eager.unit.shard = false;
  check_identical(run({kLlama, 2, eager}), every);
}

TEST_CASE("bf16 compute trains close to fp32, and ddp equals fsdp2 in bf16 too") {
  Trace exact = run({kLlama, 2, options(true)});
  Trace bf16 = run({kLlama, 2, options(true, DType::kBF16)});
  for (size_t i = 0; i < exact.losses.size(); ++i)
    CHECK(std::abs(bf16.losses[i] - exact.losses[i]) < 0.02 * exact.losses[i]);
  check_identical(run({kLlama, 2, options(false, DType::kBF16)}), bf16);
}

TEST_CASE("gradients reduced in bf16 agree between ddp and fsdp2") {
  auto o = options(true, DType::kBF16);
  o.unit.reduce_dtype = DType::kBF16;
  Trace fsdp = run({kLlama, 2, o, 6});
  o.unit.shard = false;
  check_identical(run({kLlama, 2, o, 6}), fsdp);
}

TEST_CASE("waiting for each reduction changes no bit") {
  auto o = options(true);
  Trace base = run({kLlama, 4, o, 4});
  o.overlap_reduce = false;
  check_identical(base, run({kLlama, 4, o, 4}));
}

TEST_CASE("a gradient that is not a number stops the job when asked for, and names its weight") {
  test::run_mesh(2, [](comm::World& world) {
    auto allocator = make_cpu_allocator();
    auto model = models::build(config::parse_json(kLlama, "config.json"));
    auto o = options(true);
    o.refuse_nan = true;
    engine::Engine engine(*model, world.global(), *allocator, o);
    engine.initialise(1);
    for (const auto& s : engine.state())
      if (s.param->name == "model.norm.weight" && s.begin == 0) s.master[0] = std::nanf("");
    engine.publish();
    std::vector<int32_t> ids(6, 3), labels(6, 5);
    nn::Tokens tokens = support::make_tokens(1, 6, ids, labels);
    std::string message;
    try {
      engine.step({std::span(&tokens, 1), 12, 1e-3, 0});
    } catch (const Error& error) {
      message = error.what();
      CHECK(exit_code(error.fault()) == 1);
    }
    CHECK(message.starts_with("update 1: the "));
    CHECK(message.find("nan") != std::string::npos);
    CHECK(engine.updates() == 0);
  });
}

TEST_CASE("a step without any label changes no gradient and is counted") {
  test::run_mesh(2, [](comm::World& world) {
    auto allocator = make_cpu_allocator();
    auto model = models::build(config::parse_json(kLlama, "config.json"));
    engine::Engine engine(*model, world.global(), *allocator, options(true));
    engine.initialise(1);
    std::vector<int32_t> ids(6, 3), labels(6, -100);
    nn::Tokens tokens = support::make_tokens(1, 6, ids, labels);
    auto result = engine.step({std::span(&tokens, 1), 0, 1e-3, 0});
    CHECK(result.loss == 0);
    CHECK(result.grad_norm == 0);
    CHECK(engine.updates() == 1);
  });
}

TEST_CASE("dropout trains alike on any ranks and in any microbatches, and ddp equals fsdp2 bit for bit") {
  for (const char* config : {kDroppingGpt2, kDroppingLlama}) {
    auto o = options(true);
    o.dropout_seed = 3;
    Trace one = run({config, 1, o});
    for (int ranks : {2, 3, 4}) {
      CAPTURE(ranks);
      Trace fsdp = run({config, ranks, o});
      check_close(fsdp, one);
      auto replicated = o;
      replicated.unit.shard = false;
      check_identical(run({config, ranks, replicated}), fsdp);
    }
    for (int64_t accumulation : {1, 4}) {
      CAPTURE(accumulation);
      check_close(run({config, 2, o, 20, accumulation}), one);
    }
  }
}

TEST_CASE("dropout depends on the seed and on the step, and acts in the training that is asked for only") {
  for (const char* config : {kDroppingGpt2, kDroppingLlama}) {
    Trace without = run({config, 1, options(true), 4});
    auto o = options(true);
    o.dropout_seed = 3;
    Trace first = run({config, 1, o, 4});
    o.dropout_seed = 4;
    Trace second = run({config, 1, o, 4});
    CHECK(first.losses[0] != without.losses[0]);
    CHECK(first.losses[0] != second.losses[0]);
    for (size_t i = 0; i < first.losses.size(); ++i)
      CHECK(std::abs(first.losses[i] - without.losses[i]) < 0.3 * without.losses[i]);

    // The same weights and data in two steps.
    auto allocator = make_cpu_allocator();
    comm::World world = comm::World::single();
    auto model = models::build(config::parse_json(config, "config.json"));
    engine::Engine engine(*model, world.global(), *allocator, o);
    engine.initialise(42);
    auto batch = microbatches(0, 1, 0, 1, static_cast<int>(model->info().vocab_size));
    double before = engine.evaluate(batch[0]);
    auto one = engine.step({batch, 100, 0, 0}), two = engine.step({batch, 100, 0, 0});
    CHECK(one.loss != two.loss);
    CHECK(engine.evaluate(batch[0]) == before);
    engine.set_updates(0);
    CHECK(engine.step({batch, 100, 0, 0}).loss == one.loss);
    CHECK(one.loss != before / 100);
    engine::Engine plain(*model, world.global(), *allocator, options(true));
    plain.initialise(42);
    CHECK(plain.evaluate(batch[0]) == before);
  }
}

TEST_CASE("with dropout, checkpointed activations, another engine and repetition give the same bits") {
  for (const char* config : {kDroppingGpt2, kDroppingLlama})
    for (DType param : {DType::kF32, DType::kBF16}) {
      auto o = options(true, param);
      o.dropout_seed = 3;
      Trace base = run({config, 2, o, 6});
      check_identical(base, run({config, 2, o, 6}));
      check_identical(base, run({config, 2, o, 6, 2, 3}));
      o.activation_checkpointing = true;
      check_identical(base, run({config, 2, o, 6}));
    }
}

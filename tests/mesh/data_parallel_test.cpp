// The same job on 1, 2, 3 and 4 data-parallel ranks (threads), ddp and fsdp2 (ARCHITECTURE law 2).
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/engine_fixture.h"
#include "support/mesh_job.h"
#include "support/run_mesh.h"

using namespace automodel;
using test::check_close;
using test::check_identical;
using test::MeshJob;
using test::MeshTrace;

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

struct Job {
  const char* config = kLlama;
  int ranks = 1;
  engine::EngineOptions options = {};
  int steps = 20;
  int64_t accumulation = 2;
  int stop = 0;
};

MeshJob mesh_job(const Job& job) {
  MeshJob out;
  out.config = job.config;
  out.mesh.dp_replicate = job.options.unit.replicas;
  out.mesh.dp_shard = job.ranks / job.options.unit.replicas;
  out.options = job.options;
  out.steps = job.steps;
  out.accumulation = job.accumulation;
  out.stop = job.stop;
  out.global_batch = 24;  // so that three ranks can share it
  return out;
}

MeshTrace run(const Job& job) {
  return test::run_job(mesh_job(job));
}

engine::EngineOptions options(bool shard, DType param = DType::kF32) {
  engine::EngineOptions o = test::exact_options();
  o.unit.shard = shard;
  o.unit.param_dtype = param;
  return o;
}

}  // namespace

TEST_CASE("2, 3 and 4 ranks of ddp and fsdp2 train as one rank does, and ddp equals fsdp2 bit for bit") {
  for (const char* config : {kLlama, kGpt2}) {
    MeshTrace one = run({config, 1, options(true)});
    CHECK(one.norms[0] > 0.5);
    CHECK(one.losses.back() != one.losses.front());
    for (int ranks : {2, 3, 4}) {
      CAPTURE(ranks);
      MeshTrace fsdp = run({config, ranks, options(true)});
      MeshTrace ddp = run({config, ranks, options(false)});
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
      MeshTrace hsdp = run({config, ranks, o, 8});
      check_identical(hsdp, run({config, ranks, options(false), 8}));
      o.unit.param_dtype = DType::kBF16;
      check_identical(run({config, ranks, o, 4}), run({config, ranks, options(false, DType::kBF16), 4}));
    }
}

TEST_CASE("replicas of three shards train as one rank does") {
  MeshTrace one = run({kLlama, 1, options(true)});
  auto o = options(true);
  o.unit.replicas = 2;
  check_close(run({kLlama, 6, o}), one);
}

TEST_CASE("keeping the gathered weights changes no bit") {
  for (DType param : {DType::kF32, DType::kBF16}) {
    auto o = options(true, param);
    MeshTrace base = run({kLlama, 4, o, 6});
    o.unit.keep_gathered = true;
    check_identical(base, run({kLlama, 4, o, 6}));
    o.unit.replicas = 2;
    check_identical(base, run({kLlama, 4, o, 6}));
  }
}

TEST_CASE("repetition, prefetch, resharding and activation checkpointing do not change a bit") {
  for (DType param : {DType::kF32, DType::kBF16}) {
    MeshTrace base = run({kLlama, 2, options(true, param), 6});
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
  MeshTrace deferred = run({kLlama, 2, options(true)});
  auto eager = options(true);
  eager.defer_reduce = false;
  MeshTrace every = run({kLlama, 2, eager});
  check_close(every, deferred);
  eager.unit.shard = false;
  check_identical(run({kLlama, 2, eager}), every);
}

TEST_CASE("bf16 compute trains close to fp32, and ddp equals fsdp2 in bf16 too") {
  MeshTrace exact = run({kLlama, 2, options(true)});
  MeshTrace bf16 = run({kLlama, 2, options(true, DType::kBF16)});
  for (size_t i = 0; i < exact.losses.size(); ++i)
    CHECK(std::abs(bf16.losses[i] - exact.losses[i]) < 0.02 * exact.losses[i]);
  check_identical(run({kLlama, 2, options(false, DType::kBF16)}), bf16);
}

TEST_CASE("gradients reduced in bf16 agree between ddp and fsdp2") {
  auto o = options(true, DType::kBF16);
  o.unit.reduce_dtype = DType::kBF16;
  MeshTrace fsdp = run({kLlama, 2, o, 6});
  o.unit.shard = false;
  check_identical(run({kLlama, 2, o, 6}), fsdp);
}

TEST_CASE("waiting for each reduction changes no bit") {
  auto o = options(true);
  MeshTrace base = run({kLlama, 4, o, 4});
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
      if (s.param->name == "model.norm.weight" && s.begin == 0) s.master.data<float>()[0] = std::nanf("");
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
    MeshTrace one = run({config, 1, o});
    for (int ranks : {2, 3, 4}) {
      CAPTURE(ranks);
      MeshTrace fsdp = run({config, ranks, o});
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
    MeshTrace without = run({config, 1, options(true), 4});
    auto o = options(true);
    o.dropout_seed = 3;
    MeshTrace first = run({config, 1, o, 4});
    o.dropout_seed = 4;
    MeshTrace second = run({config, 1, o, 4});
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
    auto batch = test::batches_of(mesh_job({.config = config, .accumulation = 1}), 0, 0, model->info().vocab_size);
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
      MeshTrace base = run({config, 2, o, 6});
      check_identical(base, run({config, 2, o, 6}));
      check_identical(base, run({config, 2, o, 6, 2, 3}));
      o.activation_checkpointing = true;
      check_identical(base, run({config, 2, o, 6}));
    }
}

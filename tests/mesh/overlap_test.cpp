// Communication hides behind computation: on wires so slow that a step's transfers take half as long as its work, most
// of their time must pass while the ranks compute.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "engine/engine.h"
#include "models/registry.h"
#include "parallel/chain.h"
#include "support/engine_fixture.h"
#include "support/mesh_job.h"
#include "support/run_mesh.h"
#include "support/slow_communicator.h"

using namespace automodel;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kRanks = 2;
constexpr int64_t kRows = 2, kLength = 32;

// Layers that weigh much more than the embedding, whose reduction comes last and has nothing to hide behind.
const char* const kModel = R"({"model_type": "llama", "vocab_size": 128, "hidden_size": 256, "intermediate_size": 704,
  "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": true,
  "max_position_embeddings": 64})";

// Seconds, of some steps that took turns.
struct Measured {
  struct Step {
    double seconds = 1e9;  // of the fastest
    double exposed = 0;    // of the transfers, in all of them together
  };
  Step instant;  // no transfer takes time
  Step hides;    // the wires are slow, with overlap
  Step waits;    // and without
  double transfers = 0;

  // With overlap a step costs less than the sum of work and transfers, and less than without, where much more of the
  // transfers shows. (How much shows depends on how far apart the ranks are, so the two are compared.)
  bool overlaps() const {
    return hides.exposed < 0.75 * waits.exposed && hides.seconds < instant.seconds + 0.8 * transfers &&
           hides.seconds < waits.seconds;
  }
};

nn::Tokens batch_of(int rank) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kRows * kLength; ++i) ids.push_back(static_cast<int32_t>((7 * i + 31 * rank) % 128));
  return support::make_tokens(kRows, kLength, ids, ids);
}

// One way to run the step on one rank.
struct Way {
  Way(comm::Communicator& ranks, const engine::EngineOptions& options)
      : allocator(make_cpu_allocator()),
        model(models::build(config::parse_json(kModel, "config.json"))),
        engine(*model, ranks, *allocator, options) {
    engine.initialise(1);
  }

  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<models::CausalLM> model;
  engine::Engine engine;
};

// As rank 0 sees it.
Measured measure(const engine::EngineOptions& options) {
  engine::EngineOptions plain = options;
  plain.prefetch = plain.prefetch_backward = 0;
  plain.overlap_reduce = false;
  Measured out;
  test::run_mesh(kRanks, [&](comm::World& world) {
    test::Wire wire;
    const auto ranks = test::make_slow(world.global(), wire);
    Way overlapping(*ranks, options), waiting(*ranks, plain);
    const std::vector<nn::Tokens> batches{batch_of(world.rank())};
    auto step = [&](Way& way, double seconds_per_byte, Measured::Step& best) {
      wire.seconds_per_byte = seconds_per_byte;
      wire.total = wire.exposed = 0;
      world.global().barrier();
      const Clock::time_point start = Clock::now();
      way.engine.step({batches, kRanks * kRows * kLength, 1e-3, 0});
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      best.seconds = std::min(best.seconds, seconds);
      best.exposed += wire.exposed;
    };
    Measured mine;
    Measured::Step warm_up;
    step(waiting, 0, warm_up);
    for (int i = 0; i < 3; ++i) step(overlapping, 1e-12, mine.instant);
    const double bytes = wire.total / 1e-12;
    mine.transfers = world.global().reduced(0.5 * mine.instant.seconds, comm::Reduce::kMax);  // one wire for all ranks
    for (int i = 0; i < 6; ++i) {
      step(overlapping, 0, mine.instant);
      step(overlapping, mine.transfers / bytes, mine.hides);
      step(waiting, mine.transfers / bytes, mine.waits);
    }
    if (world.is_main()) out = mine;
  });
  return out;
}

}  // namespace

TEST_CASE("prefetch and overlapped reduction hide the communication of fsdp2 and ddp") {
  for (bool shard : {true, false}) {
    engine::EngineOptions options = test::exact_options();
    options.unit.shard = shard;
    Measured m = measure(options);
    // A machine that is busy with something else stretches now one way, now the other.
    for (int attempt = 1; attempt < 8 && !m.overlaps(); ++attempt) m = measure(options);
    MESSAGE(std::string(shard ? "fsdp2" : "ddp")
            << ": transfers " << m.transfers * 1e3 << " ms; step without them " << m.instant.seconds * 1e3
            << " ms, with overlap " << m.hides.seconds * 1e3 << " ms (exposed " << m.hides.exposed * 1e3
            << "), without overlap " << m.waits.seconds * 1e3 << " ms (exposed " << m.waits.exposed * 1e3 << ")");
    CHECK(m.overlaps());
  }
}

TEST_CASE("a pipeline that asks ahead hides its transfers") {
  using namespace std::chrono_literals;
  const auto schedule = parallel::make_schedule({"1F1B", kRanks, kRanks, 8});
  auto run = [&](int ahead) {
    double seconds = 0;
    test::run_mesh(kRanks, [&](comm::World& world) {
      test::Wire wire{.seconds_per_byte = 2e-3 / sizeof(test::Row)};
      const auto pp = test::make_slow(world.global(), wire);
      const auto allocator = make_cpu_allocator();
      test::Chain chain(kRanks, *allocator, {.forward = 4ms, .half = 4ms});
      world.global().barrier();
      const auto times = parallel::run_pipeline(schedule, *pp, chain.calls(), {ahead});
      if (world.is_main()) seconds = times.total;
    });
    return seconds;
  };
  const double asks_late = std::min(run(0), run(0)), asks_ahead = std::min(run(1), run(1));
  MESSAGE("receives ahead: none " << asks_late * 1e3 << " ms, one " << asks_ahead * 1e3 << " ms");
  CHECK(asks_ahead < asks_late - 0.01);  // of 8 microbatches, most transfers are hidden
}

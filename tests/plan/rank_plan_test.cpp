// Properties of a plan that need no real run.
#include "plan/rank_plan.h"

#include <doctest/doctest.h>

#include "config/config.h"
#include "models/registry.h"

using namespace automodel;

namespace {

const char* const kSmall = R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64})";

struct Planned {
  explicit Planned(plan::RankRequest request) {
    auto model = models::build(config::parse_json(kSmall, "config.json"));
    request.model = model.get();
    plan = plan::plan_rank(request);
  }
  plan::RankPlan plan;
};

plan::RankRequest request_of(int world, int64_t accumulation) {
  plan::RankRequest r;
  r.world_size = world;
  r.microbatch = {2, 16, false};
  r.accumulation = accumulation;
  return r;
}

}  // namespace

TEST_CASE("all data-parallel ranks of a job have one plan, for which rank 0 stands") {
  for (int world : {2, 3, 7, 8}) {
    for (bool shard : {true, false}) {
      plan::RankRequest r = request_of(world, 2);
      r.options.unit.shard = shard;
      plan::RankPlan first = Planned(r).plan;
      for (r.rank = 1; r.rank < world; ++r.rank) {
        plan::RankPlan other = Planned(r).plan;
        CHECK(other.steady.peak == first.steady.peak);
        CHECK(other.peak_total() == first.peak_total());
        CHECK(other.traffic == first.traffic);
      }
      auto model = models::build(config::parse_json(kSmall, "config.json"));
      auto kinds = plan::kinds_of_ranks(distributed::MeshContext(world), *model);
      REQUIRE(kinds.size() == 1);
      CHECK(kinds[0].first == 0);
      CHECK(kinds[0].count == world);
    }
  }
}

TEST_CASE("checkpointing trades activations for nothing else in memory") {
  plan::RankRequest r = request_of(2, 1);
  plan::RankPlan whole = Planned(r).plan;
  r.options.activation_checkpointing = true;
  plan::RankPlan less = Planned(r).plan;
  CHECK(less.peak(MemoryClass::kActivations) < whole.peak(MemoryClass::kActivations));
  CHECK(less.peak(MemoryClass::kParameters) == whole.peak(MemoryClass::kParameters));
  CHECK(less.traffic == whole.traffic);
}

TEST_CASE("calls around the step are part of its traffic") {
  plan::RankRequest r = request_of(4, 6);
  plan::Traffic without = Planned(r).plan.traffic;
  int64_t counts[2] = {};
  r.before_step = [&](const parallel::JobGroups& ranks) {
    ranks.world().all_reduce({counts, 2, DType::kI64}, comm::Reduce::kSum);
  };
  plan::Traffic with = Planned(r).plan.traffic;
  CHECK_FALSE(with == without);
  with.add({comm::Call::kAllReduce, "world", 4, 16}, -1);
  plan::Traffic nothing = with;
  nothing.add(without, -1);
  CHECK(nothing.rows().empty());
}

TEST_CASE("one rank sends nothing") {
  plan::RankPlan plan = Planned(request_of(1, 1)).plan;
  CHECK(plan.traffic.sent_bytes() == 0);
  CHECK(plan.peak(MemoryClass::kCommunication) == 0);
}

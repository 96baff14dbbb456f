// What each strategy asks of the engine.
#include <doctest/doctest.h>

#include "train/placement.h"

using namespace automodel;
using namespace automodel::distributed;

namespace {

engine::EngineOptions placed(const StrategyConfig& strategy, int replicas = 1,
                             ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone) {
  engine::EngineOptions options;
  train::place_by(options, {strategy, replicas, checkpointing, precision_of(strategy, DType::kBF16), std::nullopt});
  return options;
}

}  // namespace

TEST_CASE("fsdp2 cuts the weights over the shards of each replica") {
  engine::EngineOptions o = placed(FSDP2Config{.defer_fsdp_grad_sync = false, .reshard_after_forward = false}, 2);
  CHECK(o.unit.shard);
  CHECK(o.unit.replicas == 2);
  CHECK_FALSE(o.unit.keep_gathered);
  CHECK_FALSE(o.defer_reduce);
  CHECK(o.reshard_after_forward == false);
  CHECK(o.unit.reduce_dtype == DType::kF32);
}

TEST_CASE("ddp cuts nothing and reduces in the type of the model") {
  engine::EngineOptions o = placed(DDPConfig{});
  CHECK_FALSE(o.unit.shard);
  CHECK(o.unit.reduce_dtype == DType::kBF16);
}

TEST_CASE("megatron_fsdp cuts what its stage says") {
  MegatronFSDPConfig config;
  for (auto [stage, shard, keep] : {std::tuple(0, false, true), {1, true, true}, {2, true, true}, {3, true, false}}) {
    config.zero_dp_strategy = stage;
    engine::EngineOptions o = placed(config);
    CHECK(o.unit.shard == shard);
    CHECK(o.unit.keep_gathered == keep);
    CHECK(o.unit.reduce_dtype == DType::kBF16);
  }
  config.grad_reduce_in_fp32 = config.report_nan_in_param_grad = true;
  config.overlap_param_gather = config.overlap_grad_reduce = false;
  engine::EngineOptions o = placed(config);
  CHECK(o.unit.reduce_dtype == DType::kF32);
  CHECK(o.prefetch == 0);
  CHECK(o.prefetch_backward == 0);
  CHECK_FALSE(o.overlap_reduce);
  CHECK(o.refuse_nan);
}

TEST_CASE("activation checkpointing reaches the engine where its scope has a language model") {
  auto full = ActivationCheckpointing::kFull;
  CHECK(placed(FSDP2Config{}, 1, full).activation_checkpointing);
  CHECK(placed(MegatronFSDPConfig{}, 1, full).activation_checkpointing);
  CHECK_FALSE(placed(FSDP2Config{.activation_checkpointing_scope = {"vision"}}, 1, full).activation_checkpointing);
  CHECK_FALSE(placed(FSDP2Config{}).activation_checkpointing);
}

TEST_CASE("what activation checkpointing keeps follows the section") {
  using autograd::Recall;
  auto recall = [](ActivationCheckpointing checkpointing, std::optional<MoEParallelizerConfig> experts) {
    engine::EngineOptions options;
    train::place_by(options, {.strategy = FSDP2Config{}, .checkpointing = checkpointing, .experts = experts});
    return options.recall;
  };
  CHECK(recall(ActivationCheckpointing::kSelective, {}) == Recall::kSelected);
  CHECK(recall(ActivationCheckpointing::kFull, {}) == Recall::kRouting);
  CHECK(recall(ActivationCheckpointing::kFull, MoEParallelizerConfig{}) == Recall::kRouting);
  CHECK(recall(ActivationCheckpointing::kFull, MoEParallelizerConfig{.ignore_router_for_ac = false}) ==
        Recall::kNothing);
  engine::EngineOptions options;
  CHECK(std::string(train::checkpointing_of(options)) == "off");
  options.activation_checkpointing = true;
  options.recall = Recall::kSelected;
  CHECK(std::string(train::checkpointing_of(options)) == "selective");
}

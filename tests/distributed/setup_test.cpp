// DistributedSetup::build, create_distributed_setup and MeshContext: the API that C++ programs use.
#include "distributed/distributed_setup.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;

namespace {

// The error of fsdp2, or another strategy, with these sizes.
std::string mesh_error(StrategyArgument strategy, const ParallelismSizes& sizes, int64_t world) {
  return build_error({.strategy = std::move(strategy), .parallelism_sizes = sizes, .world_size = world});
}

config::Node map_of(const std::string& yaml) {
  return config::parse_yaml(yaml, "test");
}

}  // namespace

TEST_CASE("A set-up is built from a strategy, sizes and policies") {
  const DistributedSetup setup = DistributedSetup::build({
      .strategy = FSDP2Config{.sequence_parallel = true},
      .parallelism_sizes = {.tp_size = 2},
      .activation_checkpointing = ActivationCheckpointing::kFull,
      .world_size = 4,
      .timeout_minutes = 30,
  });
  CHECK(setup.strategy() == Strategy::kFsdp2);
  CHECK(std::get<FSDP2Config>(setup.strategy_config).sequence_parallel);
  CHECK(setup.mesh_context.tp_size() == 2);
  CHECK(setup.mesh_context.dp_size() == 2);
  CHECK(setup.mesh_context.world_size() == 4);
  CHECK(setup.activation_checkpointing == ActivationCheckpointing::kFull);
  CHECK(setup.timeout_minutes == 30);
  CHECK(!setup.pipeline_config);
  CHECK(!setup.moe_parallel_config);
}

TEST_CASE("Strategies go by name in any case, or by their options") {
  for (const char* name : {"megatron_fsdp", "megatron-fsdp", "mfsdp", "MFSDP", "Megatron-FSDP"}) {
    CHECK(DistributedSetup::build({.strategy = name, .world_size = 4}).strategy() == Strategy::kMegatronFsdp);
  }
  CHECK(DistributedSetup::build({.world_size = 4}).strategy() == Strategy::kFsdp2);
  CHECK(DistributedSetup::build({.strategy = DDPConfig{.static_graph = true}, .world_size = 4}).strategy() ==
        Strategy::kDdp);
  const DistributedSetup mega = DistributedSetup::build(
      {.strategy = MegatronFSDPConfig{.zero_dp_strategy = 2, .overlap_grad_reduce = false}, .world_size = 4});
  CHECK(std::get<MegatronFSDPConfig>(mega.strategy_config).zero_dp_strategy == 2);
  CHECK(!std::get<MegatronFSDPConfig>(mega.strategy_config).overlap_grad_reduce);
  const std::string unknown = mesh_error("unknown", {}, 4);
  CHECK(has(unknown, "unknown strategy 'unknown'"));
  CHECK(has(unknown, "ddp, fsdp2, megatron-fsdp, megatron_fsdp, mfsdp"));
  CHECK(has(mesh_error(" fsdp2", {}, 4), "unknown strategy"));
}

TEST_CASE("Policies are made where they are needed, and are a mistake where they are not") {
  const DistributedSetup both =
      DistributedSetup::build({.parallelism_sizes = {.pp_size = 2, .ep_size = 2}, .world_size = 4});
  REQUIRE(both.pipeline_config);
  CHECK(both.pipeline_config->pp_schedule == "1f1b");
  CHECK(!both.pipeline_config->dtype);  // only a recipe derives it
  REQUIRE(both.moe_parallel_config);
  CHECK(both.moe_parallel_config->ignore_router_for_ac);
  CHECK(
      has(build_error({.pipeline_config = PipelineConfig{}, .world_size = 4}), "pipeline_config requires pp_size > 1"));
  CHECK(has(build_error({.pipeline_config = map_of("{}"), .world_size = 4}), "pipeline_config requires pp_size > 1"));
  CHECK(has(build_error({.moe_parallel_config = MoEParallelizerConfig{}, .world_size = 4}),
            "moe_parallel_config requires ep_size > 1"));
  const std::string together = build_error(
      {.pipeline_config = PipelineConfig{}, .moe_parallel_config = MoEParallelizerConfig{}, .world_size = 4});
  CHECK(together.find("pipeline_config requires") < together.find("moe_parallel_config requires"));
}

TEST_CASE("Policies may be maps") {
  const DistributedSetup setup =
      DistributedSetup::build({.parallelism_sizes = {.pp_size = 2, .ep_size = 2},
                               .pipeline_config = map_of("{pp_schedule: gpipe, dtype: bfloat16}"),
                               .moe_parallel_config = map_of("{reshard_after_forward: true}"),
                               .world_size = 4});
  CHECK(setup.pipeline_config->pp_schedule == "gpipe");
  CHECK(setup.pipeline_config->dtype == DType::kBF16);
  CHECK(setup.moe_parallel_config->reshard_after_forward);
  const std::string wrong = build_error({.parallelism_sizes = {.pp_size = 2, .ep_size = 2},
                                         .pipeline_config = map_of("{bogus: 1}"),
                                         .moe_parallel_config = map_of("{wrap: 1}"),
                                         .world_size = 4});
  CHECK(has(wrong, "pipeline_config.bogus: unknown key"));
  CHECK(has(wrong, "moe_parallel_config.wrap: unknown key"));
}

TEST_CASE("Activation checkpointing is the set-up's, never the strategy's") {
  const FSDP2Config on{.activation_checkpointing = ActivationCheckpointing::kFull};
  const DistributedSetup setup = DistributedSetup::build({.strategy = on, .world_size = 1});
  CHECK(setup.activation_checkpointing == ActivationCheckpointing::kNone);
  CHECK(std::get<FSDP2Config>(setup.strategy_config).activation_checkpointing == ActivationCheckpointing::kFull);
  const DistributedSetup moe = DistributedSetup::build({.parallelism_sizes = {.ep_size = 2},
                                                        .activation_checkpointing = ActivationCheckpointing::kFull,
                                                        .world_size = 2});
  CHECK(moe.activation_checkpointing == ActivationCheckpointing::kFull);
  CHECK(std::get<FSDP2Config>(moe.strategy_config).activation_checkpointing == ActivationCheckpointing::kNone);
  // Only a recipe refuses this pair.
  CHECK(build_error(
            {.strategy = "mfsdp", .activation_checkpointing = ActivationCheckpointing::kSelective, .world_size = 2})
            .empty());
}

TEST_CASE("Options are checked when a set-up is built") {
  const DistributedSetup setup = DistributedSetup::build(
      {.strategy = FSDP2Config{.activation_checkpointing_scope = {"Language + vision"}}, .world_size = 1});
  CHECK((*scope_of(setup.strategy_config) == CheckpointScope{"language", "vision"}));
  CHECK(
      has(build_error({.strategy = FSDP2Config{.activation_checkpointing_scope = {"all", "vision"}}, .world_size = 1}),
          "'all' stands alone"));
  CHECK(has(build_error({.strategy = DDPConfig{.activation_checkpointing_scope = {"encoder"}}, .world_size = 1}),
            "activation_checkpointing_scope: unknown part 'encoder'"));
  FSDP2Config frames;
  frames.multimodal.vision.frame_sharding.mesh_dims = {"cp", "tp"};
  frames.multimodal.vision.frame_sharding.min_tokens = -1;
  const std::string wrong = build_error({.strategy = frames, .world_size = 1});
  CHECK(has(wrong, "multimodal.vision.frame_sharding.mesh_dims: must be [cp]"));
  CHECK(has(wrong, "multimodal.vision.frame_sharding.min_tokens"));
}

TEST_CASE("The error table of the mesh") {
  struct Row {
    StrategyArgument strategy;
    ParallelismSizes sizes;
    int64_t world;
    std::vector<std::string> parts;  // "" as the only one: no error
  };
  using S = ParallelismSizes;
  const std::vector<Row> rows = {
      // Features of one strategy.
      {"ddp", S{.dp_replicate_size = 2}, 4, {"dp_replicate_size is 2, but ddp does not support"}},
      {"mfsdp", S{.dp_replicate_size = 2}, 4, {"dp_replicate_size is 2, but megatron_fsdp does not support"}},
      {"mfsdp", S{.pp_size = 2}, 4, {"megatron_fsdp does not support pipeline parallelism"}},
      {"mfsdp", S{.ep_size = 2}, 4, {"megatron_fsdp does not support expert parallelism"}},
      {"mfsdp", S{.pp_size = 2, .ep_size = 2}, 4, {"pipeline parallelism", "expert parallelism"}},
      {"ddp", S{.tp_size = 2}, 4, {"ddp does not support tensor parallelism"}},
      {"ddp", S{.pp_size = 2}, 4, {"ddp does not support pipeline parallelism"}},
      {"ddp", S{.cp_size = 2}, 4, {"ddp does not support context parallelism"}},
      {"ddp", S{.ep_size = 2}, 4, {"ddp does not support expert parallelism"}},
      {"ddp",
       S{.tp_size = 2, .pp_size = 2, .cp_size = 2, .ep_size = 2},
       4,
       {"tensor", "pipeline", "context", "expert"}},
      // The job is no multiple of the sizes.
      {"fsdp2",
       S{.tp_size = 4},
       6,
       {"6 ranks are no multiple of tp_size * cp_size * pp_size = 4 * 1 * 1 = 4", "write tp_size: 3 or 6"}},
      {"fsdp2", S{.tp_size = 2, .pp_size = 2, .cp_size = 2}, 12, {"12 ranks are no multiple", "2 * 2 * 2 = 8"}},
      {"mfsdp", S{.tp_size = 2, .cp_size = 2}, 6, {"6 ranks are no multiple of tp_size * cp_size = 2 * 2 = 4"}},
      // Replicas.
      {"fsdp2",
       S{.dp_replicate_size = 3},
       8,
       {"dp_size 8 is no multiple of dp_replicate_size 3", "write dp_replicate_size: 2 or 4"}},
      {"fsdp2", S{.dp_replicate_size = 2}, 1, {"dp_size 1 is no multiple of dp_replicate_size 2"}},
      {"fsdp2", S{.dp_replicate_size = 8}, 8, {"dp_replicate_size 8 must be less than dp_size 8", "strategy: ddp"}},
      {"fsdp2", S{.dp_replicate_size = 2}, 2, {"dp_replicate_size 2 must be less than dp_size 2"}},
      {"fsdp2", S{.dp_replicate_size = 1}, 1, {""}},
      // Experts.
      {"fsdp2",
       S{.ep_size = 3},
       8,
       {"8 ranks of a pipeline stage", "no multiple of ep_size 3", "write ep_size: 2 or 4"}},
      {"fsdp2", S{.pp_size = 2, .ep_size = 8}, 8, {"4 ranks of a pipeline stage"}},
      // The mesh has to take exactly the job.
      {"fsdp2",
       S{.dp_size = 2, .tp_size = 2},
       8,
       {"dp_size 2 * tp_size 2 * cp_size 1 * pp_size 1 = 4 ranks, but the job has 8", "write dp_size: none"}},
      {"fsdp2", S{.dp_size = 8, .tp_size = 2}, 8, {"= 16 ranks, but the job has 8"}},
      {"mfsdp", S{.dp_size = 8, .tp_size = 2}, 8, {"dp_size 8 * tp_size 2 * cp_size 1 = 16 ranks, but the job has 8"}},
      {"fsdp2",
       S{.dp_size = 4, .dp_replicate_size = 3, .ep_size = 3},
       8,
       {"the job has 8", "dp_replicate_size 3", "ep_size 3"}},
      {"ddp", S{.dp_size = 4}, 8, {""}},
      // Sizes.
      {"fsdp2", S{.dp_size = 0}, 8, {""}},
      {"fsdp2", S{.dp_size = -4}, 8, {""}},
      {"fsdp2", S{.tp_size = 0}, 8, {"tp_size is 0; sizes start at 1"}},
      {"fsdp2",
       S{.dp_replicate_size = -1, .tp_size = -2, .pp_size = 0, .cp_size = 0, .ep_size = 0},
       8,
       {"dp_replicate_size is -1", "tp_size is -2", "pp_size is 0", "cp_size is 0", "ep_size is 0"}},
      {"fsdp2", S{.tp_size = int64_t{1} << 62, .cp_size = int64_t{1} << 62}, 8, {"no multiple"}},
      {"fsdp2", S{}, 0, {"a job cannot have 0 ranks"}},
      {"fsdp2", S{}, -8, {"a job cannot have -8 ranks"}},
  };
  for (const Row& row : rows) {
    const std::string text = mesh_error(row.strategy, row.sizes, row.world);
    CAPTURE(text);
    for (const std::string& part : row.parts) {
      CAPTURE(part);
      CHECK(has(text, part));
      if (part.empty()) CHECK(text.empty());
    }
  }
}

TEST_CASE("Ranks of a part of the job are named once each") {
  const auto error = [](std::vector<int> ranks, const ParallelismSizes& sizes, int64_t world) {
    return build_error({.parallelism_sizes = sizes, .world_size = world, .ranks = std::move(ranks), .job_size = 8});
  };
  CHECK(error({4, 5, 6, 7}, {.tp_size = 2}, 4).empty());
  CHECK(error({0, 1}, {.dp_size = 2}, 8).empty());
  CHECK(has(error({2, 3}, {.dp_size = 4}, 2), "2 ranks are named, but the mesh has 4"));
  CHECK(has(error({0, 1, 2, 3}, {}, 8), "4 ranks are named, but the mesh has 8"));
  CHECK(has(error({2, 2}, {.tp_size = 2}, 2), "rank 2 is named twice"));
  CHECK(has(error({-1, 0}, {}, 2), "rank -1 is outside the job"));
  CHECK(has(error({7, 8}, {}, 2), "rank 8 is outside the job"));
  CHECK(has(build_error({.world_size = 2, .job_size = 4}), "the set-up is for 2 ranks, but the job has 4"));
}

TEST_CASE("The size of the job comes from the environment when it is not given") {
  const char* old = std::getenv("WORLD_SIZE");
  const std::string kept = old ? old : "";
  ::setenv("WORLD_SIZE", "8", 1);
  CHECK(DistributedSetup::build({}).mesh_context.world_size() == 8);
  CHECK(DistributedSetup::build({.world_size = 4}).mesh_context.world_size() == 4);
  ::unsetenv("WORLD_SIZE");
  CHECK(DistributedSetup::build({}).mesh_context.world_size() == 1);
  if (old) ::setenv("WORLD_SIZE", kept.c_str(), 1);
}

TEST_CASE("A tree with a section leads to a set-up, and keywords win over it") {
  const auto make = [](const std::string& config, const std::string& keywords = "{}") {
    return create_distributed_setup({.config = map_of(config), .keywords = map_of(keywords), .world_size = 4});
  };
  CHECK(make("{distributed: {tp_size: 2}}").mesh_context.tp_size() == 2);
  CHECK(make("{tp_size: 2}").mesh_context.tp_size() == 2);
  CHECK(make("{distributed: {}, tp_size: 2}").mesh_context.tp_size() == 1);
  CHECK(create_distributed_setup({.config = {}, .keywords = {}, .world_size = 4}).strategy() == Strategy::kFsdp2);
  CHECK(make("{tp_size: 1, ep_size: 1}", "{tp_size: 2, ep_size: 2}").mesh_context.ep_size() == 2);
  CHECK(make("{tp_size: 2}", "{tp_size: null}").mesh_context.tp_size() == 2);
  CHECK(make("{}", "{strategy: mfsdp, tp_size: 2}").strategy() == Strategy::kMegatronFsdp);
  CHECK(!std::get<FSDP2Config>(make("{sequence_parallel: true}", "{sequence_parallel: false}").strategy_config)
             .sequence_parallel);
  CHECK(make("{distributed: {}, dist_env: {timeout_minutes: 30}}").timeout_minutes == 30);
  CHECK(create_distributed_setup({.config = map_of("{distributed: {}, dist_env: {timeout_minutes: 10}}"),
                                  .keywords = {},
                                  .world_size = 4,
                                  .timeout_minutes = 45})
            .timeout_minutes == 45);
  CHECK(!make("{distributed: {}, dist_env: null}").timeout_minutes);
  for (const char* wrong : {"{distributed: null}", "{distributed: []}", "[]", "3", "{bogus: 1}", "{pp_size: 2}",
                            "{strategy: mfsdp, activation_checkpointing: selective}", "{dp_replicate_size: 4}"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(make(wrong), Error);
  }
  const config::Node kept = map_of("{distributed: {mp_policy: {param_dtype: bf16}, pipeline: {}}}");
  const config::Node copy = kept;
  create_distributed_setup({.config = kept, .keywords = {}, .world_size = 4});
  CHECK(kept == copy);
}

TEST_CASE("A context without a mesh has every axis at its default") {
  const MeshContext empty;
  CHECK(empty.tp_size() == 1);
  CHECK(empty.pp_size() == 1);
  CHECK(empty.cp_size() == 1);
  CHECK(empty.ep_size() == 1);
  CHECK(empty.dp_shard_size() == 1);
  CHECK(!empty.dp_size());
  CHECK(!empty.dp_replicate_size());
  CHECK(!empty.pp_enabled());
  CHECK(!empty.device_mesh());
  CHECK(!empty.moe_mesh());
  CHECK(empty.axes().empty());
  CHECK(empty.fsdp_axes().empty());
  CHECK_THROWS_AS(empty.groups("tp"), Error);
  const MeshContext ddp = DistributedSetup::build({.strategy = "ddp", .world_size = 4}).mesh_context;
  CHECK(!ddp.device_mesh());
  CHECK(ddp.data_ranks() == 4);
  for (int rank = 0; rank < 4; ++rank) CHECK(ddp.data_rank(rank) == rank);
  CHECK(ddp.describe(3) == "dp 3");
}

TEST_CASE("Axes have legal names, and unknown ones are told from those that exist") {
  CHECK((axis_names() == std::vector<std::string>{"pp", "dp_replicate", "dp_shard", "cp", "tp", "dp", "dp_shard_cp",
                                                  "dp_cp", "ep_shard", "ep"}));
  CHECK_THROWS_WITH_AS(MeshContext(comm::DeviceMesh({{"dp", 2}, {"model", 2}})), doctest::Contains("'model'"), Error);
  const MeshContext mesh(comm::DeviceMesh({{"dp", 2}, {"tp", 2}}));
  CHECK(mesh.tp_size() == 2);
  CHECK(mesh.dp_size() == 2);
  CHECK(!mesh.size("cp"));
  CHECK_THROWS_WITH_AS(mesh.groups("ep"), doctest::Contains("the axes are: dp, tp"), Error);
  comm::DeviceMesh derived({{"dp_replicate", 2}, {"dp_shard", 2}});
  CHECK_THROWS_AS(derived.flatten("dp_shard", {"dp_replicate"}), Error);
  CHECK_THROWS_AS(derived.flatten("dp", {"nope"}), Error);
  derived.flatten("dp", {"dp_replicate", "dp_shard"});
  CHECK(MeshContext(derived).dp_size() == 4);
}

TEST_CASE("Weights are sharded over one axis, or over replicas and shards") {
  const auto axes = [](const ParallelismSizes& sizes, const char* strategy = "fsdp2") {
    return DistributedSetup::build({.strategy = strategy, .parallelism_sizes = sizes, .world_size = 16})
        .mesh_context.fsdp_axes();
  };
  using A = comm::Axes;
  CHECK(axes({}) == A{"dp_shard"});
  CHECK(axes({.dp_replicate_size = 2}) == A{"dp_replicate", "dp_shard"});
  CHECK(axes({.cp_size = 2}) == A{"dp_shard_cp"});
  CHECK(axes({.dp_replicate_size = 2, .cp_size = 2}) == A{"dp_replicate", "dp_shard_cp"});
  CHECK(axes({}, "mfsdp") == A{"dp"});
  CHECK(axes({.cp_size = 2}, "mfsdp") == A{"dp_cp"});
  CHECK(axes({}, "ddp").empty());
  const MeshContext cp = DistributedSetup::build({.parallelism_sizes = {.cp_size = 4}, .world_size = 8}).mesh_context;
  CHECK(cp.loss_axis() == std::string("dp_cp"));
  const comm::DeviceMesh both = cp.device_mesh()->submesh(5, {"dp_replicate", "dp_shard_cp"});
  CHECK(both.axes() == std::vector<comm::MeshAxis>{{"dp_replicate", 1}, {"dp_shard_cp", 8}});
  CHECK(both.ranks() == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("Context parallelism as ring and ulysses") {
  const MeshContext context =
      DistributedSetup::build({.parallelism_sizes = {.cp_size = 4}, .world_size = 8}).mesh_context;
  const comm::DeviceMesh mesh = ring_ulysses_mesh(context, 5, 2, 2);
  CHECK(mesh.axes() == std::vector<comm::MeshAxis>{{"ring", 2}, {"ulysses", 2}});
  CHECK(mesh.ranks() == std::vector<int>{4, 5, 6, 7});
  CHECK_THROWS_WITH_AS(ring_ulysses_mesh(context, 0, 2, 4), doctest::Contains("must equal"), Error);
  CHECK(ring_ulysses_mesh(MeshContext(), 0, 1, 1).size() == 1);
}

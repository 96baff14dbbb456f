// The pipeline and moe blocks of a section, its warnings, and a set-up as JSON.
#include <nlohmann/json.hpp>

#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;

TEST_CASE("A pipeline block is needed above pp_size 1 and dropped below") {
  CHECK(has(problems("{pp_size: 4}"), "pp_size is 4, but there is no distributed.pipeline section"));
  CHECK(has(problems("{pp_size: 4, pipeline: null}"), "write pipeline: {} for its defaults"));
  CHECK(setup("{pp_size: 2, pipeline: {}}", 4).pipeline_config->pp_schedule == "1f1b");
  const PipelineConfig p = *setup(
                                "{pp_size: 2, pipeline: {pp_schedule: gpipe, pp_microbatch_size: 8, pp_batch_size: 32,"
                                " layers_per_stage: 12, round_virtual_stages_to_pp_multiple: up, pp_seq_len: 4096,"
                                " scale_grads_in_schedule: true, patch_inner_model: false, loss_fn: null}}",
                                4)
                                .pipeline_config;
  CHECK(p.pp_schedule == "gpipe");
  CHECK(p.pp_microbatch_size == 8);
  CHECK(p.pp_batch_size == 32);
  CHECK(p.layers_per_stage == 12);
  CHECK(p.round_virtual_stages_to_pp_multiple == StageRounding::kUp);
  CHECK(p.pp_seq_len == 4096);
  CHECK(p.scale_grads_in_schedule);
  CHECK(!p.patch_inner_model);
  for (const char* pp : {"1", "null", "none"}) {
    const Resolved r = resolve(std::string("{pp_size: ") + pp + ", pipeline: {pp_schedule: x, bogus: 1}}", 4);
    REQUIRE_MESSAGE(r.setup, r.report.text());
    CHECK(!r.setup->pipeline_config);
    REQUIRE(r.remarks.warnings.size() == 1);
    CHECK(r.remarks.warnings[0].key == "distributed.pipeline");
    CHECK(has(r.remarks.warnings[0].message, "no effect because pp_size is 1"));
  }
  CHECK(resolve("{pipeline: null}", 4).remarks.warnings.empty());
  CHECK(has(problems("{pp_size: 2, pipeline: {schedule: 1f1b}}"), "distributed.pipeline.schedule"));
  CHECK(has(problems("{pp_size: 2, pipeline: [1]}"), "expected a mapping"));
}

TEST_CASE("What crosses stages has the type that the policy hands on") {
  const auto dtype = [](const std::string& pipeline, const std::string& policy) {
    const Resolved r = resolve("{pp_size: 2, pipeline: " + pipeline + ", mp_policy: " + policy + "}", 4);
    REQUIRE_MESSAGE(r.setup, r.report.text());
    return std::pair(r.setup->pipeline_config->dtype, r.remarks.warnings.size());
  };
  using Result = std::pair<std::optional<DType>, size_t>;
  CHECK(dtype("{}", "null") == Result{DType::kBF16, 0});
  CHECK(dtype("{dtype: none}", "null") == Result{DType::kBF16, 0});
  CHECK(dtype("{}", "{param_dtype: float16}") == Result{DType::kF16, 0});
  CHECK(dtype("{}", "{param_dtype: float16, output_dtype: float32}") == Result{DType::kF32, 0});
  CHECK(dtype("{}", "{reduce_dtype: float32}") == Result{std::nullopt, 0});
  CHECK(dtype("{dtype: bfloat16}", "null") == Result{DType::kBF16, 0});
  CHECK(dtype("{dtype: float32}", "null") == Result{DType::kF32, 1});
  CHECK(dtype("{dtype: float32}", "{reduce_dtype: float32}") == Result{DType::kF32, 0});
}

TEST_CASE("What crosses stages follows a policy that was kept as written") {
  const auto dtype = [](const std::string& pipeline, const std::string& policy) {
    Read r = read("{pp_size: 2, pipeline: " + pipeline + ", mp_policy: " + policy + "}", true);
    config::Problems problems(r.report, *r.node.find("distributed"), "distributed");
    const auto built = resolve_section(r.section, {2}, problems, r.remarks.warnings);
    REQUIRE_MESSAGE(built, r.report.text());
    return to_json(*built, sizes_of(r.section), r.remarks)["pipeline"]["dtype"].dump();
  };
  CHECK(dtype("{}", "{output_dtype: 16}") == "16");
  CHECK(dtype("{}", "{param_dtype: 16}") == "16");
  CHECK(dtype("{}", "{param_dtype: bf16, output_dtype: 16}") == "16");
  CHECK(dtype("{}", "{param_dtype: 16, output_dtype: bf16}") == "\"bfloat16\"");
  CHECK(dtype("{dtype: float32}", "{output_dtype: 16}") == "\"float32\"");
  CHECK(dtype("{dtype: 32}", "{output_dtype: 16}") == "32");
  CHECK(dtype("{}", "bf16") == "null");
}

TEST_CASE("Schedules are known by their names and the documented aliases; another one is a warning") {
  for (const char* name : {"1f1b", "GPIPE", "interleaved1f1b", "loopedbfs", "InterleavedZeroBubble", "zbvzerobubble",
                           "dualpipev", "interleaved_1f1b", "looped_bfs", "dfs", "v_schedule", "zero_bubble"}) {
    CHECK(find_schedule(name).has_value());
    CHECK(resolve(std::string("{pp_size: 2, pipeline: {pp_schedule: ") + name + "}}", 4).remarks.warnings.empty());
  }
  CHECK(find_schedule("zero_bubble") == "InterleavedZeroBubble");
  CHECK(!find_schedule("bogus"));
  CHECK(has(resolve("{pp_size: 2, pipeline: {pp_schedule: bogus}}", 4).remarks.warnings.at(0).message,
            "no schedule 'bogus'"));
  CHECK(has(resolve("{pp_size: 2, pipeline: {pp_schedule: null}}", 4).remarks.warnings.at(0).message,
            "no schedule to run"));
}

TEST_CASE("A moe block is made above ep_size 1; below it has no effect, which is said") {
  CHECK(setup("{ep_size: 2}", 4).moe_parallel_config->ignore_router_for_ac);
  CHECK(setup("{ep_size: 2, moe: null}", 4).moe_parallel_config->wrap_outer_model);
  const MoEParallelizerConfig m =
      *setup(
           "{ep_size: 2, moe: {ignore_router_for_ac: false, reshard_after_forward: true,"
           " lm_head_precision: float32, wrap_outer_model: false,"
           " mp_policy: {_target_: torch.distributed.fsdp.MixedPrecisionPolicy, param_dtype: bf16}}}",
           4)
           .moe_parallel_config;
  CHECK(!m.ignore_router_for_ac);
  CHECK(m.reshard_after_forward);
  CHECK(m.lm_head_precision == DType::kF32);
  CHECK(!m.wrap_outer_model);
  CHECK(m.mp_policy->param_dtype == DType::kBF16);
  for (const char* ep : {"1", "null"}) {
    const Resolved r = resolve(std::string("{ep_size: ") + ep + ", moe: {bogus: 1}}", 4);
    REQUIRE_MESSAGE(r.setup, r.report.text());
    CHECK(!r.setup->moe_parallel_config);
    CHECK(has(r.remarks.warnings.at(0).message, "has no effect because ep_size is 1"));
  }
  CHECK(has(problems("{ep_size: 2, moe: {bogus: 1}}"), "distributed.moe.bogus: unknown key"));
  CHECK(has(problems("{ep_size: 2, moe: x}"), "distributed.moe"));
}

TEST_CASE("Options that work against each other are pointed out") {
  const auto warning = [](const std::string& yaml) {
    const Resolved r = resolve(yaml, 8);
    REQUIRE_MESSAGE(r.setup, r.report.text());
    return r.remarks.warnings.empty() ? "" : r.remarks.warnings[0].key + ": " + r.remarks.warnings[0].message;
  };
  CHECK(warning("{strategy: mfsdp}").empty());
  CHECK(has(warning("{strategy: mfsdp, zero_dp_strategy: 2}"), "zero_dp_strategy: at 2 every rank keeps all weights"));
  CHECK(has(warning("{strategy: mfsdp, zero_dp_strategy: 4}"), "there is no stage 4"));
  CHECK(has(warning("{tp_size: 2, enable_async_tensor_parallel: true}"), "needs sequence_parallel"));
  CHECK(warning("{tp_size: 2, enable_async_tensor_parallel: true, sequence_parallel: true}").empty());
  CHECK(has(warning("{sequence_parallel: true}"), "no effect because tp_size is 1"));
  CHECK(has(warning("{pp_size: 2, pipeline: {}, reshard_after_forward: true}"), "reshard_after_forward"));
}

TEST_CASE("A set-up as JSON has every key of its policies") {
  const nlohmann::ordered_json json = to_json(
      setup("{tp_size: 2, pp_size: 2, ep_size: 2, pipeline: {}, moe: {mp_policy: {_target_: MixedPrecisionPolicy, "
            "param_dtype: bf16}}}",
            8),
      {.dp_size = -1, .tp_size = 2, .pp_size = 2, .ep_size = 2});
  CHECK(json["parallelism_sizes"].dump() ==
        R"({"dp_size":-1,"dp_replicate_size":null,"tp_size":2,"pp_size":2,"cp_size":1,"ep_size":2})");
  CHECK(json["pipeline"]["pp_seq_len"].is_null());
  CHECK(json["pipeline"]["dtype"] == "bfloat16");
  CHECK(json["moe"]["mp_policy"].dump() ==
        R"({"param_dtype":"bfloat16","reduce_dtype":null,"output_dtype":null,"cast_forward_inputs":true})");
  CHECK(json["mesh"].dump() == R"({"axes":["pp","dp_replicate","dp_shard","cp","tp"],"shape":[2,1,2,1,2]})");
  CHECK(json["moe_mesh"].dump() == R"({"axes":["ep_shard","ep"],"shape":[2,2]})");
  CHECK(json["flattened"].dump() == R"({"dp":2,"dp_shard_cp":2,"dp_cp":2})");
  CHECK(json["groups"]["tp"].dump() == "[[0,1],[2,3],[4,5],[6,7]]");
  CHECK(json["groups"].size() == 10);
  CHECK(
      changed_options(json) ==
      std::vector<std::string>{
          R"(pipeline.dtype: "bfloat16")",
          R"(moe.mp_policy: {"param_dtype":"bfloat16","reduce_dtype":null,"output_dtype":null,"cast_forward_inputs":true})"});
  const nlohmann::ordered_json ddp = to_json(setup("{strategy: ddp}", 2), {});
  CHECK(ddp["mesh"].is_null());
  CHECK(ddp["moe_mesh"].is_null());
  CHECK(ddp["groups"].empty());
}

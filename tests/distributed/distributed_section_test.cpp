#include "distributed/distributed_section.h"

#include <doctest/doctest.h>

#include "config/config.h"

using namespace automodel;
using namespace automodel::distributed;

namespace {

struct Holder {
  DistributedSection distributed;
};
void describe(config::Fields<Holder>& f) {
  f.doc("Test.");
  f("distributed", &Holder::distributed, "Section.").default_target("fsdp2");
}

struct Read {
  config::Node node;
  config::Report report;
  DistributedSection section;
};

Read read(const std::string& yaml) {
  Read result;
  result.node = config::parse_yaml("distributed: " + yaml, "r.yaml");
  prepare_section(*result.node.find("distributed"), result.report);
  result.section = config::read<Holder>(result.node, result.report).distributed;
  return result;
}

// The one problem of a section.
std::string problem(const std::string& yaml) {
  const Read result = read(yaml);
  CAPTURE(yaml);
  REQUIRE_MESSAGE(result.report.problems().size() == 1, result.report.text());
  return result.report.text();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string against_world(const std::string& yaml, int64_t world, int64_t dp_size) {
  Read r = read(yaml);
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  config::Problems problems(r.report, *r.node.find("distributed"), "distributed");
  CHECK(resolve_data_parallel(r.section, world, problems).dp_size == dp_size);
  return r.report.text();
}

}  // namespace

TEST_CASE("A section that is empty or null means fsdp2 with its defaults") {
  for (const char* yaml : {"", "{}", "null", "{strategy: FSDP2}", "{_target_: a.b.FSDP2Manager, _recursive_: false}"}) {
    CAPTURE(yaml);
    const Read r = read(yaml);
    REQUIRE_MESSAGE(r.report.empty(), r.report.text());
    REQUIRE(strategy_of(r.section) == Strategy::kFsdp2);
    const auto& options = std::get<FSDP2Section>(r.section).options;
    CHECK(options.defer_fsdp_grad_sync);
    CHECK(!options.enable_fsdp2_prefetch);
    CHECK(!options.reshard_after_forward);
    CHECK(options.policy().param_dtype == DType::kBF16);
    CHECK(options.policy().reduce_dtype == DType::kF32);
    CHECK(options.policy().output_dtype == DType::kBF16);
  }
}

TEST_CASE("Harmless values of what is not supported pass") {
  const Read r = read(
      "{strategy: fsdp2, dp_size: none, dp_replicate_size: 1, tp_size: 1, pp_size: null, cp_size: 1, ep_size: null,"
      " sequence_parallel: false, activation_checkpointing: off, activation_checkpointing_scope: all, tp_plan: null,"
      " offload_policy: null, enable_async_tensor_parallel: false, enable_compile: false, autocast_dtype: null,"
      " pipeline: {pp_schedule: interleaved1f1b, pp_microbatch_size: 1}, moe: {reshard_after_forward: true},"
      " defer_fsdp_grad_sync: false, reshard_after_forward: true, enable_fsdp2_prefetch: true,"
      " fsdp2_backward_prefetch_depth: 3, fsdp2_forward_prefetch_depth: 0, patch_is_packed_sequence: false}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  const auto& options = std::get<FSDP2Section>(r.section).options;
  CHECK(!options.defer_fsdp_grad_sync);
  CHECK(options.reshard_after_forward == true);
  CHECK(options.enable_fsdp2_prefetch);
  CHECK(options.fsdp2_backward_prefetch_depth == 3);
  CHECK(options.fsdp2_forward_prefetch_depth == 0);
}

TEST_CASE("A policy that is written replaces the default one") {
  const auto policy = [](const std::string& yaml) {
    const Read r = read("{mp_policy: " + yaml + "}");
    REQUIRE_MESSAGE(r.report.empty(), r.report.text());
    return precision_of(r.section, DType::kF32);
  };
  CHECK(policy("null").param == DType::kBF16);
  CHECK(policy("{}").param == DType::kF32);
  const Precision p = policy("{_target_: torch.distributed.fsdp.MixedPrecisionPolicy, param_dtype: torch.bfloat16}");
  CHECK(p.param == DType::kBF16);
  CHECK(p.reduce == DType::kBF16);
  CHECK(p.output == DType::kBF16);
  const Precision q = policy("{param_dtype: BF16, reduce_dtype: fp32, output_dtype: float32, cast_forward_inputs: no}");
  CHECK(q.reduce == DType::kF32);
  CHECK(q.output == DType::kF32);
  CHECK(!q.cast_forward_inputs);
  CHECK(has(problem("{mp_policy: {param_dtype: int8}}"), "must be float32 or bfloat16"));
  CHECK(has(problem("{mp_policy: {param_dtyp: bf16}}"), "param_dtype"));
  CHECK(has(problem("{mp_policy: {param_dtype: bf17}}"), "bf17"));
}

TEST_CASE("ddp computes in the type of the model and has its own options") {
  const Read r = read("{strategy: DDP, bucket_cap_mb: 12.5, find_unused_parameters: false, dp_size: 4}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  REQUIRE(strategy_of(r.section) == Strategy::kDdp);
  CHECK(std::get<DDPSection>(r.section).options.bucket_cap_mb == 12.5);
  CHECK(precision_of(r.section, DType::kBF16).param == DType::kBF16);
  CHECK(precision_of(r.section, DType::kF32).reduce == DType::kF32);
}

TEST_CASE("What is not supported is refused by name, once each") {
  CHECK(has(problem("{tp_size: 2}"), "r.yaml:1:24: distributed.tp_size: tp_size is 2; tensor parallelism"));
  CHECK(has(problem("{pp_size: 4}"), "pipeline parallelism"));
  CHECK(has(problem("{cp_size: 2}"), "context parallelism"));
  CHECK(has(problem("{ep_size: 8}"), "expert parallelism"));
  CHECK(has(problem("{dp_replicate_size: 2}"), "replicated sharding"));
  CHECK(has(problem("{activation_checkpointing: true}"), "activation checkpointing is not supported yet"));
  CHECK(has(problem("{activation_checkpointing: selective}"), "activation checkpointing is not supported yet"));
  CHECK(has(problem("{sequence_parallel: true}"), "sequence parallelism"));
  CHECK(has(problem("{offload_policy: {}}"), "offload"));
  CHECK(has(problem("{tp_plan: some.plan}"), "tensor parallelism"));
  CHECK(has(problem("{strategy: mfsdp}"), "strategy mfsdp is not supported yet"));
  CHECK(has(problem("{strategy: megatron-fsdp, zero_dp_strategy: 3}"), "megatron-fsdp is not supported yet"));
}

TEST_CASE("Mistakes of a section are told at their place") {
  CHECK(has(problem("{strategy: fsdp3}"), "r.yaml:1:25: distributed.strategy: unknown strategy 'fsdp3'"));
  CHECK(has(problem("{strategy: null}"), "got null"));
  CHECK(
      has(problem("{strategy: ddp, sequence_parallel: false}"), "sequence_parallel is an option of fsdp2, not of ddp"));
  CHECK(has(problem("{strategy: fsdp2, static_graph: true}"), "static_graph is an option of ddp, not of fsdp2"));
  CHECK(has(problem("{backend: nccl}"), "backend"));
  CHECK(has(problem("{tp_siez: 1}"), "tp_size"));
  CHECK(has(problem("{tp_size: 0}"), "must be at least 1"));
  CHECK(has(problem("{cp_size: two}"), "distributed.cp_size"));
  CHECK(has(problem("{ep_size: true}"), "distributed.ep_size"));
  CHECK(has(problem("{dp_replicate_size: 0}"), "must be at least 1"));
  CHECK(has(problem("{strategy: ddp, bucket_cap_mb: 0}"), "must be above 0"));
  CHECK(has(problem("[fsdp2]"), "distributed"));
  CHECK(read("{strategy: nope, tp_size: 0}").report.problems().size() == 2);
}

TEST_CASE("Data parallelism takes exactly the ranks of the job") {
  CHECK(against_world("{}", 8, 8) == "");
  CHECK(against_world("{dp_size: none}", 3, 3) == "");
  CHECK(against_world("{dp_size: 0}", 3, 3) == "");
  CHECK(against_world("{dp_size: -1}", 3, 3) == "");
  CHECK(against_world("{dp_size: 4}", 4, 4) == "");
  CHECK(against_world("{strategy: ddp}", 5, 5) == "");
  CHECK(against_world("{strategy: ddp, dp_size: 4}", 5, 5) == "");
  const std::string wrong = against_world("{dp_size: 4}", 8, 4);
  CHECK(has(wrong, "r.yaml:1:24: distributed.dp_size: dp_size 4 * tp_size 1 * cp_size 1 * pp_size 1 = 4 ranks, but"));
  CHECK(has(wrong, "the job has 8"));
  CHECK(has(against_world("{dp_size: 4}", 2, 4), "write dp_size: none to use all 2 ranks, or start 4 ranks"));
}

TEST_CASE("The dump of a section reads back as the same section") {
  Read r = read("{strategy: ddp, bucket_cap_mb: 8}");
  Holder holder{r.section};
  config::Node dumped = config::to_node(holder, &r.node);
  tidy_dump(*dumped.find("distributed"));
  const std::string text = config::dump(dumped);
  CHECK(!has(text, "_target_"));
  CHECK(has(text, "strategy: ddp"));
  config::Node again = config::parse_yaml(text, "again.yaml");
  config::Report report;
  prepare_section(*again.find("distributed"), report);
  const auto section = config::read<Holder>(again, report).distributed;
  REQUIRE_MESSAGE(report.empty(), report.text());
  CHECK(std::get<DDPSection>(section).options.bucket_cap_mb == 8);
}

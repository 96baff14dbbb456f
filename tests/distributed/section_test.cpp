// The rules of the `distributed:` section of a recipe.
#include "distributed/distributed_section.h"

#include <nlohmann/json.hpp>

#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;

namespace {

const FSDP2Config& fsdp2(const DistributedSetup& setup) {
  return std::get<FSDP2Config>(setup.strategy_config);
}

std::string json_of(const DistributedSetup& setup, const std::string& path) {
  const nlohmann::ordered_json json = to_json(setup, {});
  return json.at(nlohmann::ordered_json::json_pointer(path)).dump();
}

}  // namespace

TEST_CASE("A section that is empty or null means fsdp2 with its defaults") {
  for (const char* yaml : {"", "{}", "null", "{strategy: FSDP2}",
                           "{_target_: nemo_automodel.components.distributed.fsdp2.FSDP2Manager, _recursive_: false}",
                           "{_convert_: all, raise_on_missing_attr: false, _target_: null}"}) {
    const DistributedSetup s = setup(yaml, 4);
    REQUIRE(s.strategy() == Strategy::kFsdp2);
    const FSDP2Config& o = fsdp2(s);
    CHECK(!o.sequence_parallel);
    CHECK(!o.tp_plan);
    CHECK(!o.patch_is_packed_sequence);
    CHECK(!o.offload_policy);
    CHECK(!o.autocast_dtype);
    CHECK(o.activation_checkpointing_scope == CheckpointScope{"all"});
    CHECK(o.defer_fsdp_grad_sync);
    CHECK(!o.reshard_after_forward);
    CHECK(!o.enable_async_tensor_parallel);
    CHECK(!o.enable_compile);
    CHECK(!o.enable_fsdp2_prefetch);
    CHECK(o.fsdp2_backward_prefetch_depth == 2);
    CHECK(o.fsdp2_forward_prefetch_depth == 1);
    CHECK(o.policy().param_dtype == DType::kBF16);
    CHECK(o.policy().reduce_dtype == DType::kF32);
    CHECK(o.policy().output_dtype == DType::kBF16);
    CHECK(o.multimodal.frozen_sharding == FrozenSharding::kRoot);
    CHECK(s.activation_checkpointing == ActivationCheckpointing::kNone);
    CHECK(!s.pipeline_config);
    CHECK(!s.moe_parallel_config);
  }
}

TEST_CASE("Every option of a strategy reaches its struct") {
  const auto fsdp =
      fsdp2(setup("{sequence_parallel: true, tp_plan: {'layers.*.q': colwise}, patch_is_packed_sequence: true,"
                  " mp_policy: {param_dtype: float16}, offload_policy: {pin_memory: false}, autocast_dtype: bf16,"
                  " activation_checkpointing_scope: language+vision, defer_fsdp_grad_sync: false,"
                  " reshard_after_forward: false, enable_async_tensor_parallel: true, enable_compile: true,"
                  " enable_fsdp2_prefetch: true, fsdp2_backward_prefetch_depth: 4,"
                  " fsdp2_forward_prefetch_depth: 3}",
                  2));
  CHECK(fsdp.sequence_parallel);
  CHECK((std::get<1>(*fsdp.tp_plan) == std::map<std::string, std::string>{{"layers.*.q", "colwise"}}));
  CHECK(fsdp.patch_is_packed_sequence);
  CHECK(fsdp.policy().param_dtype == DType::kF16);
  CHECK(!fsdp.offload_policy->pin_memory);
  CHECK(fsdp.autocast_dtype == DType::kBF16);
  CHECK((fsdp.activation_checkpointing_scope == CheckpointScope{"language", "vision"}));
  CHECK(!fsdp.defer_fsdp_grad_sync);
  CHECK(fsdp.reshard_after_forward == false);
  CHECK(fsdp.enable_async_tensor_parallel);
  CHECK(fsdp.enable_compile);
  CHECK(fsdp.enable_fsdp2_prefetch);
  CHECK(fsdp.fsdp2_backward_prefetch_depth == 4);
  CHECK(fsdp.fsdp2_forward_prefetch_depth == 3);

  const auto ddp = std::get<DDPConfig>(
      setup("{strategy: DDP, broadcast_buffers: true, find_unused_parameters: true, static_graph: true, bucket_cap_mb: "
            "64,"
            " gradient_as_bucket_view: true, autocast_dtype: bfloat16, activation_checkpointing_scope: language}",
            2)
          .strategy_config);
  CHECK(ddp.broadcast_buffers);
  CHECK(ddp.find_unused_parameters);
  CHECK(ddp.static_graph);
  CHECK(ddp.bucket_cap_mb == 64);
  CHECK(ddp.gradient_as_bucket_view);
  CHECK(ddp.autocast_dtype == DType::kBF16);
  CHECK(ddp.activation_checkpointing_scope == CheckpointScope{"language"});

  const auto mega = std::get<MegatronFSDPConfig>(
      setup(
          "{strategy: mfsdp, megatron_fsdp_unit_modules: [a.B], zero_dp_strategy: 2, init_fsdp_with_meta_device: true,"
          " grad_reduce_in_fp32: true, preserve_fp32_weights: true, overlap_grad_reduce: false,"
          " overlap_param_gather: false, check_for_nan_in_grad: false, report_nan_in_param_grad: true,"
          " average_in_collective: true, disable_bucketing: true, calculate_per_token_loss: true,"
          " keep_fp8_transpose_cache: true, nccl_ub: true, fsdp_double_buffer: true}",
          2)
          .strategy_config);
  CHECK(mega.megatron_fsdp_unit_modules == std::vector<std::string>{"a.B"});
  CHECK(mega.zero_dp_strategy == 2);
  for (bool on :
       {mega.init_fsdp_with_meta_device, mega.grad_reduce_in_fp32, mega.preserve_fp32_weights,
        mega.report_nan_in_param_grad, mega.average_in_collective, mega.disable_bucketing,
        mega.calculate_per_token_loss, mega.keep_fp8_transpose_cache, mega.nccl_ub, mega.fsdp_double_buffer}) {
    CHECK(on);
  }
  CHECK(!(mega.overlap_grad_reduce || mega.overlap_param_gather || mega.check_for_nan_in_grad));
}

TEST_CASE("A policy that is written replaces the default one, and is not merged with it") {
  const auto policy = [](const std::string& yaml) {
    const Read r = read("{mp_policy: " + yaml + "}");
    REQUIRE_MESSAGE(r.report.empty(), r.report.text());
    return precision_of(r.section, DType::kF32);
  };
  CHECK(policy("null").param == DType::kBF16);
  CHECK(policy("none").param == DType::kBF16);
  CHECK(policy("{}").param == DType::kF32);
  const Precision p = policy("{_target_: torch.distributed.fsdp.MixedPrecisionPolicy, param_dtype: torch.bfloat16}");
  CHECK(p.param == DType::kBF16);
  CHECK(p.reduce == DType::kBF16);
  CHECK(p.output == DType::kBF16);
  const Precision q = policy("{param_dtype: BF16, reduce_dtype: fp32, output_dtype: float32, cast_forward_inputs: no}");
  CHECK(q.reduce == DType::kF32);
  CHECK(q.output == DType::kF32);
  CHECK(!q.cast_forward_inputs);
  CHECK(policy("\"{'param_dtype': 'bf16'}\"").param == DType::kBF16);
}

TEST_CASE("Names of element types are those of PyTorch and three short ones") {
  const std::pair<const char*, DType> names[] = {
      {"float", DType::kF32},   {"float32", DType::kF32},      {"float64", DType::kF64},   {"double", DType::kF64},
      {"float16", DType::kF16}, {"half", DType::kF16},         {"bfloat16", DType::kBF16}, {"uint8", DType::kU8},
      {"int8", DType::kI8},     {"int16", DType::kI16},        {"short", DType::kI16},     {"int32", DType::kI32},
      {"int", DType::kI32},     {"int64", DType::kI64},        {"long", DType::kI64},      {"bool", DType::kBool},
      {"bf16", DType::kBF16},   {"fp32", DType::kF32},         {"fp16", DType::kF16},      {"torch.half", DType::kF16},
      {"BF16", DType::kBF16},   {"TORCH.Float16", DType::kF16}};
  for (const auto& [name, dtype] : names) {
    CHECK(fsdp2(setup(std::string("{autocast_dtype: ") + name + "}", 1)).autocast_dtype == dtype);
  }
  for (const char* wrong : {"bf17", "torch.bf16", "torch.fp32", "''", "float8", "boolean"}) {
    CHECK(has(problems(std::string("{autocast_dtype: ") + wrong + "}"), "distributed.autocast_dtype: expected"));
  }
}

TEST_CASE("Offloading is on as soon as its policy is there") {
  CHECK(!fsdp2(setup("{offload_policy: null}", 1)).offload_policy);
  CHECK(fsdp2(setup("{offload_policy: {}}", 1)).offload_policy->pin_memory);
  CHECK(fsdp2(setup("{offload_policy: {_target_: null}}", 1)).offload_policy->to_cpu);
  CHECK(json_of(setup("{offload_policy: {_target_: torch.distributed.fsdp.CPUOffloadPolicy, pin_memory: false}}", 1),
                "/strategy_options/offload_policy") == R"({"pin_memory":false})");
  const DistributedSetup none = setup("{offload_policy: {_target_: torch.distributed.fsdp.OffloadPolicy}}", 1);
  CHECK(!fsdp2(none).offload_policy->to_cpu);
  CHECK(json_of(none, "/strategy_options/offload_policy") == "{}");
  CHECK(has(problems("{offload_policy: {_target_: torch.distributed.fsdp.OffloadPolicy, pin_memory: true}}"),
            "OffloadPolicy offloads nothing"));
  CHECK(has(problems("{offload_policy: {_target_: torch.distributed.fsdp.Missing}}"), "unknown target"));
}

TEST_CASE("The words of activation checkpointing") {
  const auto value = [](const std::string& word, const std::string& strategy) {
    return setup("{activation_checkpointing: " + word + ", strategy: " + strategy + "}", 2).activation_checkpointing;
  };
  for (const char* strategy : {"fsdp2", "ddp", "megatron_fsdp"}) {
    for (const char* word : {"null", "~", "false", "off", "none", "None", "disabled", "no", "NO", "'FALSE'"}) {
      CHECK(value(word, strategy) == ActivationCheckpointing::kNone);
    }
    for (const char* word : {"true", "on", "full", "Full", "enabled", "yes", "'TRUE'"}) {
      CHECK(value(word, strategy) == ActivationCheckpointing::kFull);
    }
  }
  CHECK(value("selective", "fsdp2") == ActivationCheckpointing::kSelective);
  CHECK(value("SELECTIVE", "ddp") == ActivationCheckpointing::kSelective);
  for (const char* wrong : {"sometimes", "0", "1", "1.0", "''", "' full'", "'full '", "off-", "[true]", "{mode: full}",
                            "'null'", "block"}) {
    CHECK(has(problems(std::string("{activation_checkpointing: ") + wrong + "}"),
              "distributed.activation_checkpointing"));
  }
  for (const char* name : {"megatron_fsdp", "megatron-fsdp", "mfsdp", "MFSDP"}) {
    CHECK(has(problems(std::string("{activation_checkpointing: selective, strategy: ") + name + "}"),
              "works with fsdp2 and ddp"));
  }
  // The options of the strategy stay as they are.
  CHECK(fsdp2(setup("{activation_checkpointing: true}", 2)).activation_checkpointing == ActivationCheckpointing::kNone);
}

TEST_CASE("The scope of activation checkpointing is normalised") {
  const std::pair<const char*, CheckpointScope> scopes[] = {
      {"null", {"all"}},
      {"all", {"all"}},
      {"ALL", {"all"}},
      {"auto", {"all"}},
      {"default", {"all"}},
      {"'auto,default'", {"all"}},
      {"''", {"all"}},
      {"' '", {"all"}},
      {"','", {"all"}},
      {"[]", {"all"}},
      {"['']", {"all"}},
      {"[auto, all]", {"all"}},
      {"multimodal", {"multimodal"}},
      {"language+vision", {"language", "vision"}},
      {"'language + vision'", {"language", "vision"}},
      {"'vision,audio'", {"vision", "audio"}},
      {"'Vision ,Audio'", {"vision", "audio"}},
      {"'language,,vision'", {"language", "vision"}},
      {"[language, vision]", {"language", "vision"}},
      {"['language+vision', audio]", {"language", "vision", "audio"}},
      {"['vision,vision', vision]", {"vision"}},
      {"\"['language', 'vision']\"", {"language", "vision"}},
  };
  for (const char* strategy : {"fsdp2", "ddp"}) {
    const std::string rest = std::string(", strategy: ") + strategy + "}";
    for (const auto& [text, scope] : scopes) {
      CHECK(*scope_of(setup(std::string("{activation_checkpointing_scope: ") + text + rest, 2).strategy_config) ==
            scope);
    }
    for (const char* wrong :
         {"all+vision", "'vision,all'", "auto+vision", "encoder", "lang-uage", "multi-modal", "trainable", "[1]",
          "[null]", "[[vision]]", "1", "true", "1.5", "{a: b}", "[vision, nope]"}) {
      CHECK(has(problems(std::string("{activation_checkpointing_scope: ") + wrong + rest),
                "activation_checkpointing_scope"));
    }
  }
  CHECK(has(problems("{strategy: mfsdp, activation_checkpointing_scope: all}"), "is an option of fsdp2 and ddp"));
}

TEST_CASE("Multimodal policies are checked strictly") {
  const auto frames = [](const std::string& yaml) {
    return fsdp2(setup("{multimodal: {vision: {frame_sharding: " + yaml + "}}}", 2)).multimodal.vision.frame_sharding;
  };
  const auto f = frames(
      "{enabled: true, mesh_dims: [cp], min_tokens: 0, min_frames: 4, min_local_patch_rows: 128, cost_alpha: 0}");
  CHECK(f.enabled);
  CHECK(f.min_tokens == 0);
  CHECK(f.min_frames == 4);
  CHECK(f.min_local_patch_rows == 128);
  CHECK(std::get<int64_t>(*f.cost_alpha) == 0);
  CHECK(!frames("{cost_alpha: null}").cost_alpha);
  CHECK(std::get<std::string>(*frames("{}").cost_alpha) == "auto");
  CHECK(frames("{mesh_dims: \"('cp',)\"}").mesh_dims == std::vector<std::string>{"cp"});
  for (const auto& [word, sharding] :
       {std::pair{"root", FrozenSharding::kRoot}, std::pair{"per_layer", FrozenSharding::kPerLayer},
        std::pair{"per-layer", FrozenSharding::kPerLayer}, std::pair{"Replicate", FrozenSharding::kReplicate}}) {
    CHECK(fsdp2(setup(std::string("{multimodal: {frozen_sharding: ") + word + "}}", 2)).multimodal.frozen_sharding ==
          sharding);
  }
  for (const char* wrong :
       {"{frozen_sharding: off}", "{frozen_sharding: shard}", "{frozen_sharding: ' root'}", "{frozen_sharding: null}",
        "{vision: x}", "{vision: []}", "{vision: null}", "{audio: {}}", "{bogus: 1}", "null", "[]", "true", "1",
        "{vision: {frame_sharding: null}}", "{vision: {frame_sharding: {bogus: 1}}}"}) {
    CHECK(has(problems(std::string("{multimodal: ") + wrong + "}"), "distributed.multimodal"));
  }
  for (const char* wrong : {"enabled: null", "enabled: 1", "enabled: 'maybe'", "mesh_dims: cp", "mesh_dims: [cp, tp]",
                            "mesh_dims: [tp]", "mesh_dims: []", "min_tokens: -1", "min_tokens: 2.0", "min_tokens: null",
                            "min_tokens: true", "min_frames: -3", "min_local_patch_rows: x", "cost_alpha: AUTO",
                            "cost_alpha: -1", "cost_alpha: 1.5", "cost_alpha: 1.0", "cost_alpha: true"}) {
    CHECK(has(problems(std::string("{multimodal: {vision: {frame_sharding: {") + wrong + "}}}}"),
              "distributed.multimodal.vision.frame_sharding."));
  }
  CHECK(has(problems("{cp_vision_frame_sharding: true}"), "it is now: distributed.multimodal.vision.frame_sharding"));
  CHECK(has(problems("{frozen_multimodal_sharding: root}"), "it is now: distributed.multimodal.frozen_sharding"));
}

TEST_CASE("Mistakes of a section are told at their place") {
  CHECK(has(problems("{strategy: fsdp3}"), "r.yaml:1:25: distributed.strategy: unknown strategy 'fsdp3'"));
  CHECK(has(problems("{strategy: fsdp3}"), "one of: ddp, fsdp2, megatron-fsdp, megatron_fsdp, mfsdp"));
  for (const char* wrong : {"null", "none", "2", "true", "[fsdp2]", "{name: fsdp2}"}) {
    CHECK(has(problems(std::string("{strategy: ") + wrong + "}"), "expected the name of a strategy"));
  }
  for (const char* wrong : {"' fsdp2'", "''", "'null'", "deepspeed", "megatron fsdp"}) {
    CHECK(has(problems(std::string("{strategy: ") + wrong + "}"), "unknown strategy"));
  }
  CHECK(has(problems("{strategy: ddp, sequence_parallel: false}"), "is an option of fsdp2, not of ddp"));
  CHECK(has(problems("{strategy: ddp, mp_policy: {}}"), "is an option of fsdp2, not of ddp"));
  CHECK(has(problems("{strategy: mfsdp, mp_policy: {}}"), "is an option of fsdp2, not of megatron_fsdp"));
  CHECK(has(problems("{static_graph: true}"), "is an option of ddp, not of fsdp2"));
  for (const char* strategy : {"fsdp2", "ddp", "megatron_fsdp", "megatron-fsdp", "mfsdp"}) {
    CHECK(has(problems(std::string("{backend: nccl, strategy: ") + strategy + "}"), "it is now: dist_env.backend"));
  }
  CHECK(has(problems("{moe_config: {}}"), "it is now: distributed.moe"));
  CHECK(has(problems("{tp_siez: 1}"), "did you mean 'tp_size'"));
  CHECK(has(problems("{mp_policy: {param_dtyp: bf16}}"), "did you mean 'param_dtype'"));
  CHECK(has(problems("{offload_policy: {pin: true}}"), "distributed.offload_policy.pin"));
  CHECK(has(problems("{_target_: some.missing.Class}"), "unknown target 'some.missing.Class'"));
  CHECK(has(problems("{mp_policy: {_target_: 'none'}}"), "unknown target 'none'"));
  CHECK(has(problems("[fsdp2]"), "distributed"));
}

TEST_CASE("Sizes are whole numbers, and null means the default") {
  const ParallelismSizes s =
      sizes_of(read("{dp_size: '-1', dp_replicate_size: none, tp_size: ' 2', pp_size: null, cp_size: '0x2'}").section);
  CHECK(s.dp_size == -1);
  CHECK(!s.dp_replicate_size);
  CHECK(s.tp_size == 2);
  CHECK(s.pp_size == 1);
  CHECK(s.cp_size == 2);
  for (const char* key : {"dp_size", "dp_replicate_size", "tp_size", "pp_size", "cp_size", "ep_size"}) {
    for (const char* wrong : {"two", "2.0", "1e0", "true", "[2]", "{a: 2}", "''"}) {
      CHECK(has(problems(std::string("{") + key + ": " + wrong + "}"), "expected a whole number"));
    }
    if (key == std::string("dp_size")) continue;
    for (const char* wrong : {"0", "-2"}) {
      CHECK(has(problems(std::string("{") + key + ": " + wrong + "}"), "must be at least 1"));
    }
  }
}

TEST_CASE("A section that is no mapping is told with what to write, and text is read as the reference reads it") {
  for (const char* wrong : {"3", "[1]", "[]", "''", "fsdp2", "true"}) {
    const std::string text = problems(wrong);
    CHECK(has(text, "expected a mapping"));
    CHECK(has(text, "write distributed: {} for its defaults"));
  }
  CHECK(setup("none", 2).strategy() == Strategy::kFsdp2);
  CHECK(setup("\"{'strategy': 'ddp'}\"", 2).strategy() == Strategy::kDdp);
}

TEST_CASE("Hints about sizes can be followed") {
  CHECK(has(problems("{tp_size: 2.0}"), "write it without a point or an exponent"));
  CHECK(has(problems("{tp_size: 99999999999999999999}"), "no job has that many ranks"));
  CHECK(has(problems("{tp_size: 2.5}"), "no job has that many ranks, or a part of one"));
  const std::string huge = problems("{tp_size: 4611686018427387904, cp_size: 4}");
  CHECK(has(huge, "4611686018427387904 * 4 * 1 = more than 10^12"));
  CHECK(!has(huge, "or start"));
  CHECK(has(problems("{dp_size: 9223372036854775807}"), "= more than 10^12 ranks, but the job has 8"));
  // Neither 0 replicas nor as many as there are data-parallel ranks.
  CHECK(has(problems("{dp_replicate_size: 5}"), "write dp_replicate_size: 4\n"));
  CHECK(has(problems("{dp_replicate_size: 2}", 7), "write dp_replicate_size: 1\n"));
}

TEST_CASE("All mistakes come at once") {
  const std::string text = problems(
      "{strategy: ddp, tp_size: two, activation_checkpointing: sometimes, sequence_parallel: true, backend: nccl,"
      " autocast_dtype: nope, activation_checkpointing_scope: encoder, bogus: 1}",
      8, 7);
  for (const char* part :
       {"tp_size", "sometimes", "sequence_parallel", "dist_env.backend", "nope", "encoder", "bogus"}) {
    CHECK(has(text, part));
  }
  CHECK(read("{strategy: nope, tp_size: 0, activation_checkpointing: 7}").report.problems().size() == 3);
}

TEST_CASE("Values that the reference does not check can be kept as they were written") {
  Read r = read("{sequence_parallel: maybe, mp_policy: 16, pp_size: 2, pipeline: {pp_microbatch_size: four}, zero: 1}",
                true);
  CHECK(r.report.problems().size() == 1);  // zero is unknown
  CHECK(r.remarks.warnings.size() == 3);
  REQUIRE(r.remarks.written("sequence_parallel"));
  CHECK(r.remarks.written("pipeline.pp_microbatch_size")->as_string() == "four");
  CHECK(!r.remarks.written("pp_size"));
  CHECK(read("{sequence_parallel: maybe}").report.problems().size() == 1);
}

TEST_CASE("The dump of a section reads back as the same section") {
  for (const char* yaml :
       {"{strategy: ddp, bucket_cap_mb: 8}", "{tp_size: 2, pp_size: 2, pipeline: {dtype: bf16}, mp_policy: {}}",
        "{strategy: mfsdp, zero_dp_strategy: 1, activation_checkpointing: true}"}) {
    CAPTURE(yaml);
    Read first = read(yaml);
    REQUIRE(first.report.empty());
    config::Node dumped = config::to_node(first.section, first.node.find("distributed"));
    tidy_dump(dumped);
    const std::string text = config::dump(dumped);
    CHECK(!has(text, "_target_"));
    config::Node again = config::parse_yaml(text, "again.yaml");
    config::Report report;
    SectionRemarks remarks;
    prepare_section(again, report, remarks);
    const auto section = config::read<DistributedSection>(again, report, "distributed");
    REQUIRE_MESSAGE(report.empty(), report.text());
    config::Node second = config::to_node(section, &again);
    tidy_dump(second);
    CHECK(second == dumped);
  }
}

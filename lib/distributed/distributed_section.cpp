// Keys of two strategies cannot stand in one struct, because a key of the wrong strategy is a mistake. So the section
// is a variant, and the `strategy` text becomes the name by which config::read chooses (section_rules.cpp).
#include "distributed/distributed_section.h"

#include <fmt/core.h>

#include "config/config.h"

namespace automodel::distributed {
namespace {

template <class S>
void describe_section(config::Fields<S>& f) {
  f("strategy", &S::strategy, "How the model lies on the ranks.");
  f.flatten(&S::sizes);
  f("activation_checkpointing", &S::activation_checkpointing,
    "Compute activations again in the backward instead of keeping them: false, true (or full: what each layer starts "
    "from is kept, and what routers choose), selective (results of attention, of exchanges, of products with a bias "
    "and "
    "of every other product without one too). AUTOMODEL_AC_TRACE=1 shows what is kept.");
  f("pipeline", &S::pipeline, "Pipeline stages and their schedule. Required when pp_size is above 1; {} is enough.");
  f("moe", &S::moe, "Mixtures of experts when ep_size is above 1.");
  f.flatten(&S::options);
  f.key("backend").renamed_to("dist_env.backend");
  f.key("timeout_minutes").renamed_to("dist_env.timeout_minutes");
  f.key("pipeline_config").renamed_to("distributed.pipeline");
  f.key("moe_config").renamed_to("distributed.moe");
  f.key("moe_parallel_config").renamed_to("distributed.moe");
}

}  // namespace

void describe(config::Fields<FSDP2Section>& f) {
  f.doc("Weights, gradients and optimizer state are cut over the data-parallel ranks.");
  f.target({"fsdp2"}, [](FSDP2Section& s) { s.strategy = Strategy::kFsdp2; });
  describe_section(f);
  f.key("cp_vision_frame_sharding").renamed_to("distributed.multimodal.vision.frame_sharding");
  f.key("frozen_multimodal_sharding").renamed_to("distributed.multimodal.frozen_sharding");
}

void describe(config::Fields<DDPSection>& f) {
  f.doc("Every rank keeps the whole model; gradients are summed.");
  f.target({"ddp"}, [](DDPSection& s) { s.strategy = Strategy::kDdp; });
  describe_section(f);
}

void describe(config::Fields<MegatronFSDPSection>& f) {
  f.doc("Weights, gradients and optimizer state are cut over the data-parallel ranks, in the stages of ZeRO.");
  f.target({"megatron_fsdp"}, [](MegatronFSDPSection& s) { s.strategy = Strategy::kMegatronFsdp; });
  describe_section(f);
}

const config::Node* SectionRemarks::written(std::string_view path) const {
  for (const auto& [known, node] : as_written) {
    if (known == path) return &node;
  }
  return nullptr;
}

void tidy_dump(config::Node& section) {
  section.erase("_target_");
}

const ParallelismSizes& sizes_of(const DistributedSection& section) {
  return std::visit([](const auto& s) -> const ParallelismSizes& { return s.sizes; }, section);
}

ActivationCheckpointing activation_checkpointing_of(const DistributedSection& section) {
  return std::visit([](const auto& s) { return s.activation_checkpointing; }, section);
}

StrategyConfig options_of(const DistributedSection& section) {
  StrategyConfig options = std::visit([](const auto& s) -> StrategyConfig { return s.options; }, section);
  const auto normalise = [](CheckpointScope& scope) { scope = normalise_scope(scope).scope; };
  if (auto* fsdp2 = std::get_if<FSDP2Config>(&options)) normalise(fsdp2->activation_checkpointing_scope);
  if (auto* ddp = std::get_if<DDPConfig>(&options)) normalise(ddp->activation_checkpointing_scope);
  return options;
}

Precision precision_of(const DistributedSection& section, DType model_dtype) {
  return precision_of(options_of(section), model_dtype);
}

namespace {

// What crosses pipeline stages has the type that a unit hands on.
void settle_stage_dtype(PipelineConfig& pipeline, const StrategyConfig& options,
                        std::vector<config::Problem>& warnings) {
  const auto* fsdp2 = std::get_if<FSDP2Config>(&options);
  if (!fsdp2) return;
  const MixedPrecisionPolicy policy = fsdp2->policy();
  const std::optional<DType> handed_on = policy.output_dtype ? policy.output_dtype : policy.param_dtype;
  if (!pipeline.dtype) {
    pipeline.dtype = handed_on;
  } else if (handed_on && *pipeline.dtype != *handed_on) {
    warnings.push_back({"distributed.pipeline.dtype",
                        fmt::format("is {}, but mp_policy hands on {}: stages would get another type than they expect",
                                    name_of(*pipeline.dtype), name_of(*handed_on)),
                        "leave it out",
                        {}});
  }
}

void check_schedule(const PipelineConfig& pipeline, std::vector<config::Problem>& warnings) {
  const std::string key = "distributed.pipeline.pp_schedule";
  if (!pipeline.pp_schedule) {
    warnings.push_back({key, "is null: there is no schedule to run", "leave it out for 1f1b", {}});
  } else if (!find_schedule(*pipeline.pp_schedule)) {
    std::string known;
    for (const std::string& name : schedule_names()) known += (known.empty() ? "" : ", ") + name;
    warnings.push_back({key,
                        fmt::format("there is no schedule '{}'", *pipeline.pp_schedule),
                        fmt::format("the schedules are {}", known),
                        {}});
  }
}

// Options that work against each other, or not at all.
void advise(const StrategyConfig& options, const ParallelismSizes& sizes, std::vector<config::Problem>& warnings) {
  const auto warn = [&](const char* key, std::string message, std::string hint) {
    warnings.push_back({std::string("distributed.") + key, std::move(message), std::move(hint), {}});
  };
  if (const auto* megatron = std::get_if<MegatronFSDPConfig>(&options)) {
    const int64_t stage = megatron->zero_dp_strategy;
    if (stage < 1 || stage > 3) {
      warn("zero_dp_strategy", fmt::format("there is no stage {}", stage), "write 1, 2 or 3");
    } else if (stage != 3) {
      warn("zero_dp_strategy", fmt::format("at {} every rank keeps all weights", stage), "write 3 to cut them too");
    }
  }
  const auto* fsdp2 = std::get_if<FSDP2Config>(&options);
  if (!fsdp2) return;
  if (sizes.tp_size > 1 && fsdp2->enable_async_tensor_parallel && !fsdp2->sequence_parallel) {
    warn("enable_async_tensor_parallel", "needs sequence_parallel: true", "set it too, or leave this out");
  }
  if (sizes.tp_size <= 1 && fsdp2->sequence_parallel) {
    warn("sequence_parallel", "has no effect because tp_size is 1", "set tp_size above 1 to use it");
  }
  if (sizes.pp_size > 1 && fsdp2->reshard_after_forward == true) {
    warn("reshard_after_forward", "gathers the weights of a stage again for every microbatch",
         "leave it out where memory allows");
  }
}

}  // namespace

std::optional<DistributedSetup> resolve_section(const DistributedSection& section, const SectionWorld& world,
                                                config::Problems& problems, std::vector<config::Problem>& warnings) {
  DistributedSetup setup;
  setup.strategy_config = options_of(section);
  setup.activation_checkpointing = activation_checkpointing_of(section);
  setup.timeout_minutes = world.timeout_minutes;
  const ParallelismSizes& sizes = sizes_of(section);
  std::visit(
      [&](const auto& s) {
        if (sizes.pp_size > 1) setup.pipeline_config = s.pipeline.value_or(PipelineConfig{});
        if (sizes.ep_size > 1) setup.moe_parallel_config = s.moe.value_or(MoEParallelizerConfig{});
      },
      section);
  advise(setup.strategy_config, sizes, warnings);
  if (setup.pipeline_config) {
    settle_stage_dtype(*setup.pipeline_config, setup.strategy_config, warnings);
    check_schedule(*setup.pipeline_config, warnings);
  }
  auto context = build_mesh({strategy_of(section), sizes, world.world_size, world.ranks, world.job_size}, problems);
  if (!context) return std::nullopt;
  setup.mesh_context = std::move(*context);
  return setup;
}

namespace {

// The section of a tree, with the keywords set.
config::Node section_of(const SectionRequest& request, config::Report& report) {
  const config::Node* found = request.config.find("distributed");
  config::Node section = found && found->is_map() ? *found : request.config;
  if (section.is_null()) section = config::Node::map();
  if (!section.is_map()) {
    report.add({"distributed", fmt::format("expected a mapping, got {}", config::show(section)), "", section.origin()});
    return config::Node::map();
  }
  for (const config::Entry& keyword : request.keywords.entries()) {
    if (!keyword.value.is_null()) section.set(keyword.key, keyword.value, keyword.key_origin);
  }
  return section;
}

std::optional<double> timeout_of(const SectionRequest& request) {
  if (request.timeout_minutes) return request.timeout_minutes;
  const config::Node* written = request.config.at_path("dist_env.timeout_minutes");
  const bool number = written && (written->is_int() || written->is_float());
  return number ? std::optional(written->as_double()) : std::nullopt;
}

}  // namespace

DistributedSetup create_distributed_setup(const SectionRequest& request) {
  config::Report report;
  SectionRemarks remarks;
  config::Node node = section_of(request, report);
  prepare_section(node, report, remarks);
  const auto section = config::read<DistributedSection>(node, report, "distributed");
  report.throw_if_any();
  config::Problems problems(report, node, "distributed");
  const SectionWorld world{request.world_size.value_or(world_size_of_environment()), timeout_of(request), request.ranks,
                           request.job_size};
  auto setup = resolve_section(section, world, problems, remarks.warnings);
  report.throw_if_any();
  return std::move(*setup);
}

}  // namespace automodel::distributed

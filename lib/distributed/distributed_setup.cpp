#include "distributed/distributed_setup.h"

#include <fmt/core.h>

#include <cstdlib>

#include "config/config.h"

namespace automodel::distributed {
namespace {

std::optional<StrategyConfig> config_of(const StrategyArgument& argument, config::Problems& problems) {
  if (const auto* name = std::get_if<std::string>(&argument.value())) {
    if (auto strategy = find_strategy(*name)) return default_config(*strategy);
    problems.add("strategy", fmt::format("unknown strategy '{}'", *name),
                 "one of: ddp, fsdp2, megatron-fsdp, megatron_fsdp, mfsdp");
    return std::nullopt;
  }
  if (const auto* ddp = std::get_if<DDPConfig>(&argument.value())) return *ddp;
  if (const auto* megatron = std::get_if<MegatronFSDPConfig>(&argument.value())) return *megatron;
  return std::get<FSDP2Config>(argument.value());
}

// The policy that was given, if any; one that the size leaves without use is a mistake.
template <class T>
std::optional<T> policy(const PolicyArgument<T>& argument, const char* key, const char* size_key, int64_t size,
                        config::Report& report) {
  if (std::holds_alternative<std::monostate>(argument)) return size > 1 ? std::optional(T{}) : std::nullopt;
  if (size <= 1) {
    report.add({key,
                fmt::format("{} requires {} > 1; it is {}", key, size_key, size),
                fmt::format("leave {} out, or set {}", key, size_key),
                {}});
    return std::nullopt;
  }
  if (const T* config = std::get_if<T>(&argument)) return *config;
  return config::read<T>(std::get<config::Node>(argument), report, key);
}

// Normalises the scope of activation checkpointing in place.
void normalise(StrategyConfig& strategy, config::Problems& problems) {
  const auto in_place = [&](CheckpointScope& scope) {
    ScopeResult result = normalise_scope(scope);
    if (!result.mistake.empty()) problems.add("activation_checkpointing_scope", result.mistake);
    scope = std::move(result.scope);
  };
  if (auto* fsdp2 = std::get_if<FSDP2Config>(&strategy)) in_place(fsdp2->activation_checkpointing_scope);
  if (auto* ddp = std::get_if<DDPConfig>(&strategy)) in_place(ddp->activation_checkpointing_scope);
}

void check_multimodal(const StrategyConfig& strategy, config::Report& report) {
  const auto* fsdp2 = std::get_if<FSDP2Config>(&strategy);
  if (!fsdp2) return;
  // The same rules as in a recipe, by the same description.
  config::read<MultimodalDistributedConfig>(config::to_node(fsdp2->multimodal), report, "multimodal");
}

}  // namespace

int64_t world_size_of_environment() {
  const char* text = std::getenv("WORLD_SIZE");
  if (!text) return 1;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  return end != text && *end == '\0' && value > 0 ? value : 1;
}

DistributedSetup DistributedSetup::build(const SetupRequest& request) {
  config::Report report;
  const config::Node nowhere;
  config::Problems problems(report, nowhere, "");
  DistributedSetup setup;
  const ParallelismSizes& sizes = request.parallelism_sizes;
  std::optional<StrategyConfig> strategy = config_of(request.strategy, problems);
  if (strategy) {
    normalise(*strategy, problems);
    check_multimodal(*strategy, report);
  }
  setup.pipeline_config = policy(request.pipeline_config, "pipeline_config", "pp_size", sizes.pp_size, report);
  setup.moe_parallel_config =
      policy(request.moe_parallel_config, "moe_parallel_config", "ep_size", sizes.ep_size, report);
  if (strategy) {
    config::Problems of_sizes(report, nowhere, "parallelism_sizes");
    MeshRequest mesh{distributed::strategy_of(*strategy), sizes,
                     request.world_size.value_or(world_size_of_environment()), request.ranks, request.job_size};
    if (auto context = build_mesh(mesh, of_sizes)) setup.mesh_context = std::move(*context);
    setup.strategy_config = std::move(*strategy);
  }
  report.throw_if_any();
  setup.activation_checkpointing = request.activation_checkpointing;
  setup.timeout_minutes = request.timeout_minutes;
  return setup;
}

}  // namespace automodel::distributed

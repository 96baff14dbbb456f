#include "train/placement.h"

namespace automodel::train {

namespace {

void place_fsdp2(engine::EngineOptions& options, const distributed::FSDP2Config& fsdp2, int replicas) {
  options.unit.replicas = replicas;
  options.reshard_after_forward = fsdp2.reshard_after_forward;
  options.defer_reduce = fsdp2.defer_fsdp_grad_sync;
  if (!fsdp2.enable_fsdp2_prefetch) return;
  options.prefetch = static_cast<int>(fsdp2.fsdp2_forward_prefetch_depth);
  options.prefetch_backward = static_cast<int>(fsdp2.fsdp2_backward_prefetch_depth);
}

// Stages 1 and 2 run alike: a layer's gradients are reduced as soon as they are there, and no rank keeps them whole.
void place_megatron(engine::EngineOptions& options, const distributed::MegatronFSDPConfig& megatron) {
  options.unit.shard = megatron.zero_dp_strategy > 0;
  options.unit.keep_gathered = megatron.zero_dp_strategy < 3;
  if (!megatron.overlap_param_gather) options.prefetch = options.prefetch_backward = 0;
  options.overlap_reduce = megatron.overlap_grad_reduce;
  options.refuse_nan = megatron.report_nan_in_param_grad;
}

autograd::Recall recall_of(const Placing& placing) {
  if (placing.checkpointing == distributed::ActivationCheckpointing::kSelective) return autograd::Recall::kSelected;
  bool repeats_routers = placing.experts && !placing.experts->ignore_router_for_ac;
  return repeats_routers ? autograd::Recall::kNothing : autograd::Recall::kRouting;
}

}  // namespace

const char* checkpointing_of(const engine::EngineOptions& options) {
  if (!options.activation_checkpointing) return "off";
  return options.recall == autograd::Recall::kSelected ? "selective" : "full";
}

void place_by(engine::EngineOptions& options, const Placing& placing) {
  const distributed::StrategyConfig& strategy = placing.strategy;
  options.unit.param_dtype = placing.precision.param;
  options.unit.reduce_dtype = placing.precision.reduce;
  if (const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy))
    place_fsdp2(options, *fsdp2, placing.replicas);
  if (const auto* m = std::get_if<distributed::MegatronFSDPConfig>(&strategy)) place_megatron(options, *m);
  if (std::holds_alternative<distributed::DDPConfig>(strategy)) options.unit.shard = false;
  if (placing.experts && !options.reshard_after_forward)
    options.reshard_after_forward = placing.experts->reshard_after_forward;
  const distributed::CheckpointScope* scope = distributed::scope_of(strategy);
  using distributed::ActivationCheckpointing;
  options.activation_checkpointing = placing.checkpointing != ActivationCheckpointing::kNone &&
                                     (scope == nullptr || distributed::covers_language(*scope));
  options.recall = recall_of(placing);
}

}  // namespace automodel::train

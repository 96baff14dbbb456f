#include "train/placement.h"

namespace automodel::train {

void place_by(engine::EngineOptions& options, const distributed::StrategyConfig& strategy,
              distributed::ActivationCheckpointing checkpointing, const distributed::Precision& precision) {
  options.unit.param_dtype = precision.param;
  options.unit.reduce_dtype = precision.reduce;
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy);
  options.unit.shard = fsdp2 != nullptr;
  if (fsdp2) {
    options.reshard_after_forward = fsdp2->reshard_after_forward;
    options.defer_reduce = fsdp2->defer_fsdp_grad_sync;
    if (fsdp2->enable_fsdp2_prefetch) {
      options.prefetch = static_cast<int>(fsdp2->fsdp2_forward_prefetch_depth);
      options.prefetch_backward = static_cast<int>(fsdp2->fsdp2_backward_prefetch_depth);
    }
  }
  const distributed::CheckpointScope* scope = distributed::scope_of(strategy);
  options.activation_checkpointing = checkpointing == distributed::ActivationCheckpointing::kFull && scope != nullptr &&
                                     distributed::covers_language(*scope);
}

}  // namespace automodel::train

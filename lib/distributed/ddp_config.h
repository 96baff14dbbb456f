// Options of the strategy ddp: every rank keeps the whole model, gradients are summed over all ranks.
#pragma once

#include <optional>

#include "config/schema.h"
#include "core/dtype.h"
#include "distributed/activation_checkpointing.h"

namespace automodel::distributed {

struct DDPConfig {
  // Overwritten by the set-up's own value, as in FSDP2Config.
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  CheckpointScope activation_checkpointing_scope = {"all"};
  bool broadcast_buffers = false;
  bool find_unused_parameters = false;
  bool static_graph = false;
  std::optional<double> bucket_cap_mb = std::nullopt;  // MiB of gradients per reduction; null: 25
  bool gradient_as_bucket_view = false;
  std::optional<DType> autocast_dtype = std::nullopt;
};
void describe(config::Fields<DDPConfig>&);

}  // namespace automodel::distributed

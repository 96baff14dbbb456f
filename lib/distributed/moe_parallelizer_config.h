// How a mixture of experts is cut when expert parallelism is on.
#pragma once

#include <optional>

#include "config/schema.h"
#include "core/dtype.h"
#include "distributed/mixed_precision.h"

namespace automodel::distributed {

struct MoEParallelizerConfig {
  bool ignore_router_for_ac = true;    // activation checkpointing keeps the router's choice instead of repeating it
  bool reshard_after_forward = false;  // fsdp2's option of that name wins when it is set
  std::optional<DType> lm_head_precision = std::nullopt;  // float32: the head is a unit of its own
  bool wrap_outer_model = true;
  std::optional<MixedPrecisionPolicy> mp_policy = std::nullopt;  // null: fsdp2's
};
void describe(config::Fields<MoEParallelizerConfig>&);

}  // namespace automodel::distributed

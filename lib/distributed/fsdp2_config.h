// Options of the strategy fsdp2: every weight is cut over the data-parallel ranks and gathered unit by unit.
#pragma once

#include <cstdint>
#include <optional>

#include "config/schema.h"
#include "distributed/mixed_precision.h"

namespace automodel::distributed {

struct FSDP2Config {
  std::optional<MixedPrecisionPolicy> mp_policy;  // null: MixedPrecisionPolicy::standard(); a mapping replaces it whole
  bool defer_fsdp_grad_sync = true;               // reduce gradients once per optimizer step, not per microbatch
  std::optional<bool> reshard_after_forward;      // null: every unit but the last
  bool enable_fsdp2_prefetch = false;
  int64_t fsdp2_backward_prefetch_depth = 2;  // units gathered ahead, with enable_fsdp2_prefetch
  int64_t fsdp2_forward_prefetch_depth = 1;

  MixedPrecisionPolicy policy() const { return mp_policy.value_or(MixedPrecisionPolicy::standard()); }
};
void describe(config::Fields<FSDP2Config>&);

}  // namespace automodel::distributed

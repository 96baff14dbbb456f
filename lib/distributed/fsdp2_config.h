// Options of the strategy fsdp2: every weight is cut over the data-parallel ranks and gathered unit by unit.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/schema.h"
#include "distributed/activation_checkpointing.h"
#include "distributed/mixed_precision.h"
#include "distributed/multimodal_config.h"
#include "distributed/offload_policy.h"

namespace automodel::distributed {

// The name of a plan, or a style for each pattern of module names.
using TpPlan = std::variant<std::string, std::map<std::string, std::string>>;

struct FSDP2Config {
  bool sequence_parallel = false;  // activations between tensor-parallel products are cut along the sequence
  std::optional<TpPlan> tp_plan = std::nullopt;  // null: the family's own
  bool patch_is_packed_sequence = false;
  std::optional<MixedPrecisionPolicy> mp_policy =
      std::nullopt;  // null: MixedPrecisionPolicy::standard(); a mapping replaces it whole
  std::optional<OffloadPolicy> offload_policy = std::nullopt;  // null: nothing is offloaded
  std::optional<DType> autocast_dtype = std::nullopt;
  // Not what a job does: the set-up's own value overwrites it, also when that is the default. A recipe cannot set it.
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  CheckpointScope activation_checkpointing_scope = {"all"};
  bool defer_fsdp_grad_sync = true;  // reduce gradients once per optimizer step, not per microbatch
  std::optional<bool> reshard_after_forward = std::nullopt;  // null: every unit but the last
  bool enable_async_tensor_parallel = false;
  bool enable_compile = false;
  bool enable_fsdp2_prefetch = false;
  int64_t fsdp2_backward_prefetch_depth = 2;  // units gathered ahead, with enable_fsdp2_prefetch
  int64_t fsdp2_forward_prefetch_depth = 1;   // 0 or less: none
  MultimodalDistributedConfig multimodal = {};

  MixedPrecisionPolicy policy() const { return mp_policy.value_or(MixedPrecisionPolicy::standard()); }
};
void describe(config::Fields<FSDP2Config>&);

}  // namespace automodel::distributed

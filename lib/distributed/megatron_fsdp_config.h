// Options of the strategy megatron_fsdp: fully sharded data parallelism in the stages of ZeRO, with buckets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/schema.h"
#include "distributed/activation_checkpointing.h"

namespace automodel::distributed {

struct MegatronFSDPConfig {
  std::optional<std::vector<std::string>> megatron_fsdp_unit_modules =
      std::nullopt;              // class paths; null: the model's layers
  int64_t zero_dp_strategy = 3;  // what is cut: 1 optimizer state, 2 gradients too, 3 weights too
  bool init_fsdp_with_meta_device = false;
  bool grad_reduce_in_fp32 = false;
  bool preserve_fp32_weights = false;
  bool overlap_grad_reduce = true;
  bool overlap_param_gather = true;
  bool check_for_nan_in_grad = true;  // does nothing in the reference; report_nan_in_param_grad checks
  bool report_nan_in_param_grad = false;
  bool average_in_collective = false;
  bool disable_bucketing = false;
  bool calculate_per_token_loss = false;
  bool keep_fp8_transpose_cache = false;
  bool nccl_ub = false;
  bool fsdp_double_buffer = false;
  // Overwritten by the set-up's own value, as in FSDP2Config.
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
};
void describe(config::Fields<MegatronFSDPConfig>&);

}  // namespace automodel::distributed

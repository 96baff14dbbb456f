// The part of config.json that families with routed experts share.
#pragma once

#include <cstdint>

#include "config/schema.h"
#include "models/rotary_config.h"

namespace automodel::models {

struct ExpertsConfig {
  int64_t num_local_experts = 8;
  int64_t num_experts_per_tok = 2;
  bool output_router_logits = false;
  double router_aux_loss_coef = 0.001;
  double gate_bias_update_factor = 0;
};
void describe(config::Fields<ExpertsConfig>& f);

// Of experts that are `inner` wide in a model of this shape. As in transformers, the balance loss is part of training
// exactly when output_router_logits is set; nn::MoeSpec says what it is.
nn::MoeSpec moe_spec(const ExpertsConfig& experts, const RotaryConfig& shared, int64_t inner);

}  // namespace automodel::models

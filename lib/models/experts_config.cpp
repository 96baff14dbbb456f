#include "models/experts_config.h"

#include "core/error.h"

namespace automodel::models {

void describe(config::Fields<ExpertsConfig>& f) {
  using C = ExpertsConfig;
  f("num_local_experts", &C::num_local_experts, "Experts of a layer.").alias("num_experts").above(0);
  f("num_experts_per_tok", &C::num_experts_per_tok, "Experts that each token chooses.").above(0);
  f("output_router_logits", &C::output_router_logits, "Whether the balance loss is part of training.");
  f("router_aux_loss_coef", &C::router_aux_loss_coef, "Weight of the balance loss, in every layer with experts.")
      .at_least(0);
  f("gate_bias_update_factor", &C::gate_bias_update_factor,
    "Balance without a loss: how much each update moves the bias that a router adds to the probability of an expert "
    "when it chooses, against the expert's load. 0: a bias that the weights come with stays as it is.")
      .at_least(0);
  f.check([](const C& c, config::Problems& p) {
    if (c.num_experts_per_tok > c.num_local_experts)
      p.add("num_experts_per_tok",
            fmt::format("a token cannot choose {} of {} experts", c.num_experts_per_tok, c.num_local_experts));
  });
}

nn::MoeSpec moe_spec(const ExpertsConfig& experts, const RotaryConfig& shared, int64_t inner) {
  nn::MoeSpec spec;
  spec.hidden = shared.hidden_size;
  spec.inner = inner;
  spec.experts = experts.num_local_experts;
  spec.top_k = experts.num_experts_per_tok;
  spec.activation = *parse_activation(shared.hidden_act);
  spec.init_std = static_cast<float>(shared.initializer_range);
  if (experts.output_router_logits) spec.balance_coefficient = static_cast<float>(experts.router_aux_loss_coef);
  spec.bias_step = static_cast<float>(experts.gate_bias_update_factor);
  return spec;
}

}  // namespace automodel::models

#include "distributed/moe_parallelizer_config.h"

namespace automodel::distributed {

void describe(config::Fields<MoEParallelizerConfig>& f) {
  using C = MoEParallelizerConfig;
  f.doc("Mixtures of experts under expert parallelism.");
  f("ignore_router_for_ac", &C::ignore_router_for_ac, "Keep the router's choice under activation checkpointing.");
  f("reshard_after_forward", &C::reshard_after_forward, "Free gathered weights after each layer's forward.");
  f("lm_head_precision", &C::lm_head_precision, "Element type of the head, such as float32.");
  f("wrap_outer_model", &C::wrap_outer_model, "Make the whole model one more unit.");
  f("mp_policy", &C::mp_policy, "Element types. Default: those of fsdp2.");
}

}  // namespace automodel::distributed

#include "distributed/ddp_config.h"

namespace automodel::distributed {

void describe(config::Fields<DDPConfig>& f) {
  using C = DDPConfig;
  f.doc("Options of ddp.");
  f("activation_checkpointing_scope", &C::activation_checkpointing_scope,
    "Which parts are checkpointed: all, or some of language, vision, audio, multimodal.")
      .one_or_list()
      .null_is_default();
  f("broadcast_buffers", &C::broadcast_buffers, "Send buffers from rank 0 before each forward.")
      .no_effect("models have no buffers that change");
  f("find_unused_parameters", &C::find_unused_parameters, "Look for weights without a gradient.")
      .no_effect("every parameter takes part in every step");
  f("static_graph", &C::static_graph, "Promise that every step is alike.")
      .no_effect("the graph of a step never changes");
  f("bucket_cap_mb", &C::bucket_cap_mb, "MiB of gradients per reduction. Default: 25.")
      .above(0)
      .no_effect("gradients are reduced layer by layer");
  f("gradient_as_bucket_view", &C::gradient_as_bucket_view, "Keep gradients in their buckets.")
      .no_effect("gradients always live in their buckets");
  f("autocast_dtype", &C::autocast_dtype, "Element type of a forward.")
      .no_effect("model.torch_dtype decides the element type");
}

}  // namespace automodel::distributed

#include "distributed/ddp_config.h"

namespace automodel::distributed {

void describe(config::Fields<DDPConfig>& f) {
  f.doc("Options of ddp.");
  f("bucket_cap_mb", &DDPConfig::bucket_cap_mb, "MiB of gradients per reduction. Default: 25.")
      .above(0)
      .no_effect("gradients are reduced layer by layer");
  f.key("broadcast_buffers").no_effect("models have no buffers that change");
  f.key("find_unused_parameters").no_effect("every parameter takes part in every step");
  f.key("static_graph").no_effect("the graph of a step never changes");
  f.key("gradient_as_bucket_view").no_effect("gradients always live in their buckets");
  f.key("autocast_dtype").no_effect("model.torch_dtype decides the element type");
}

}  // namespace automodel::distributed

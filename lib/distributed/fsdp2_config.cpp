#include "distributed/fsdp2_config.h"

namespace automodel::distributed {

void describe(config::Fields<FSDP2Config>& f) {
  using C = FSDP2Config;
  f.doc("Options of fsdp2.");
  f("mp_policy", &C::mp_policy,
    "Element types. Default: bfloat16 weights, float32 reduction, bfloat16 outputs. A mapping replaces all of it.");
  f("defer_fsdp_grad_sync", &C::defer_fsdp_grad_sync,
    "Reduce gradients on the last microbatch of a step only; false: on every microbatch.")
      .null_is_default();
  f("reshard_after_forward", &C::reshard_after_forward,
    "Free gathered weights after the forward of each layer. Default: all layers but the last.");
  f("enable_fsdp2_prefetch", &C::enable_fsdp2_prefetch, "Gather the next units ahead of their use.").null_is_default();
  f("fsdp2_backward_prefetch_depth", &C::fsdp2_backward_prefetch_depth, "Units gathered ahead in the backward.")
      .null_is_default();
  f("fsdp2_forward_prefetch_depth", &C::fsdp2_forward_prefetch_depth, "Units gathered ahead in the forward; 0: none.")
      .null_is_default();
  f.key("offload_policy").refused("weights cannot be offloaded yet; leave offload_policy out", {"none"});
  f.key("sequence_parallel")
      .refused("sequence parallelism belongs to tensor parallelism, which is not supported yet", {"false"});
  f.key("enable_async_tensor_parallel")
      .refused("it belongs to tensor parallelism, which is not supported yet", {"false"});
  f.key("tp_plan").refused("tensor parallelism is not supported yet; leave tp_plan out", {"none"});
  f.key("enable_compile").no_effect("there is no compilation step; kernels are compiled ahead");
  f.key("patch_is_packed_sequence").no_effect("attention never probes for packed sequences");
  f.key("autocast_dtype").no_effect("mp_policy decides the element types");
  f.key("multimodal").no_effect("language models have no other towers");
}

}  // namespace automodel::distributed

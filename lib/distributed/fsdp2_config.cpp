#include "distributed/fsdp2_config.h"

namespace automodel::distributed {

void describe(config::Fields<FSDP2Config>& f) {
  using C = FSDP2Config;
  f.doc("Options of fsdp2.");
  f("sequence_parallel", &C::sequence_parallel,
    "Cut activations along the sequence between tensor-parallel products. No effect at tp_size 1.");
  f("tp_plan", &C::tp_plan,
    "Which modules tensor parallelism cuts: colwise or rowwise for each pattern of their names, as in "
    "model.layers.*.self_attn.q_proj: colwise. What is not named is whole on every rank. Attentions, MLPs, the "
    "embedding "
    "and the head are cut as wholes. Or a name: auto, llama_nemotron_super_tp_plan. Default: the model's own, which "
    "cuts "
    "all of them.");
  f("patch_is_packed_sequence", &C::patch_is_packed_sequence, "Answer no to the probe for packed sequences.")
      .no_effect("attention never probes for packed sequences");
  f("mp_policy", &C::mp_policy,
    "Element types. Default: bfloat16 weights, float32 reduction, bfloat16 outputs. A mapping replaces all of it.");
  f("offload_policy", &C::offload_policy, "Keep shards in host memory. {} is enough.");
  f("autocast_dtype", &C::autocast_dtype, "Element type of a forward outside mp_policy.")
      .no_effect("mp_policy decides the element types");
  f("activation_checkpointing_scope", &C::activation_checkpointing_scope,
    "Which parts are checkpointed: all, or some of language, vision, audio, multimodal.")
      .one_or_list()
      .null_is_default();
  f("defer_fsdp_grad_sync", &C::defer_fsdp_grad_sync,
    "Reduce gradients on the last microbatch of a step only; false: on every microbatch.");
  f("reshard_after_forward", &C::reshard_after_forward,
    "Free gathered weights after the forward of each layer. Default: all layers but the last.");
  f("enable_async_tensor_parallel", &C::enable_async_tensor_parallel,
    "Multiply some rows while others pass between the tensor-parallel ranks, which takes a little memory and changes "
    "no "
    "result; needs sequence_parallel. No effect at tp_size 1.");
  f("enable_compile", &C::enable_compile, "Compile each layer.").no_effect("kernels are compiled ahead");
  f("enable_fsdp2_prefetch", &C::enable_fsdp2_prefetch, "Gather the next units ahead of their use.");
  f("fsdp2_backward_prefetch_depth", &C::fsdp2_backward_prefetch_depth, "Units gathered ahead in the backward.");
  f("fsdp2_forward_prefetch_depth", &C::fsdp2_forward_prefetch_depth, "Units gathered ahead in the forward; 0: none.");
  f("multimodal", &C::multimodal, "Vision and audio towers.");
}

}  // namespace automodel::distributed

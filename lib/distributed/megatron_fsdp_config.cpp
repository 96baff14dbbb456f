#include "distributed/megatron_fsdp_config.h"

namespace automodel::distributed {

void describe(config::Fields<MegatronFSDPConfig>& f) {
  using C = MegatronFSDPConfig;
  f.doc("Options of megatron_fsdp.");
  f("megatron_fsdp_unit_modules", &C::megatron_fsdp_unit_modules, "Classes that are units. Default: the layers.");
  f("zero_dp_strategy", &C::zero_dp_strategy,
    "What is cut over the ranks: 1 optimizer state, 2 gradients too, 3 weights too.");
  f("init_fsdp_with_meta_device", &C::init_fsdp_with_meta_device, "Make weights after sharding.");
  f("grad_reduce_in_fp32", &C::grad_reduce_in_fp32, "Keep and reduce gradients in float32.");
  f("preserve_fp32_weights", &C::preserve_fp32_weights, "Keep a float32 copy of the weights.");
  f("overlap_grad_reduce", &C::overlap_grad_reduce, "Reduce gradients during the backward.");
  f("overlap_param_gather", &C::overlap_param_gather, "Gather weights ahead.");
  f("check_for_nan_in_grad", &C::check_for_nan_in_grad, "Has no effect; use report_nan_in_param_grad.");
  f("report_nan_in_param_grad", &C::report_nan_in_param_grad, "Stop at a gradient that is not a number.");
  f("average_in_collective", &C::average_in_collective, "Average instead of summing in the reduction.");
  f("disable_bucketing", &C::disable_bucketing, "One bucket for all gradients.");
  f("calculate_per_token_loss", &C::calculate_per_token_loss, "Do not average gradients over ranks.");
  f("keep_fp8_transpose_cache", &C::keep_fp8_transpose_cache, "Keep transposed fp8 weights.");
  f("nccl_ub", &C::nccl_ub, "Register buffers with NCCL.");
  f("fsdp_double_buffer", &C::fsdp_double_buffer, "Two buffers that take turns.");
}

}  // namespace automodel::distributed

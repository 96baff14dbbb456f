#include "train/engine_limits.h"

#include <fmt/core.h>

namespace automodel::train {
namespace {

using distributed::ActivationCheckpointing;

void check_policy(const distributed::FSDP2Config& options, config::Problems& problems) {
  const distributed::MixedPrecisionPolicy policy = options.policy();
  const auto check = [&](const char* key, std::optional<DType> dtype) {
    if (!dtype || *dtype == DType::kF32 || *dtype == DType::kBF16) return;
    problems.add(key, fmt::format("must be float32 or bfloat16, got {}", name_of(*dtype)),
                 "training computes in these two");
  };
  check("mp_policy.param_dtype", policy.param_dtype);
  check("mp_policy.reduce_dtype", policy.reduce_dtype);
  check("mp_policy.output_dtype", policy.output_dtype);
}

// These keys exist under megatron_fsdp alone.
template <class Note>
void note_megatron(Note&& note) {
  note("megatron_fsdp_unit_modules", "the layers of the model are the units");
  note("init_fsdp_with_meta_device", "weights are always made where they are kept");
  note("preserve_fp32_weights", "the master weights are always float32");
  note("check_for_nan_in_grad", "report_nan_in_param_grad is the check that acts");
  note("average_in_collective", "gradients are those of the mean over all tokens in any case");
  note("calculate_per_token_loss", "gradients are those of the mean over all tokens in any case");
  note("disable_bucketing", "each layer is reduced as one");
  note("keep_fp8_transpose_cache", "nothing is kept in fp8");
  note("nccl_ub", "there is no NCCL on the CPU");
  note("fsdp_double_buffer", "buffers are taken from memory that is already mapped");
}

}  // namespace

void check_engine_limits(const distributed::StrategyConfig& strategy, const distributed::ParallelismSizes& sizes,
                         config::Problems& problems) {
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy);
  if (fsdp2 == nullptr) return;
  check_policy(*fsdp2, problems);
  if (sizes.tp_size > 1 && fsdp2->enable_async_tensor_parallel && !fsdp2->sequence_parallel)
    problems.add("enable_async_tensor_parallel",
                 "is true, but sequence_parallel is false: there are no rows that could travel during products",
                 "write sequence_parallel: true, or leave this out");
}

void check_engine_limits(const distributed::DistributedSection& section, const config::Node& node,
                         config::Report& report) {
  config::Problems problems(report, node, "distributed");
  const distributed::StrategyConfig options = distributed::options_of(section);
  const ActivationCheckpointing checkpointing = distributed::activation_checkpointing_of(section);
  check_engine_limits(options, distributed::sizes_of(section), problems);
  const auto note = [&](const char* key, const char* why) {
    const config::Node* written = node.at_path(key);
    const bool off = !written || written->is_null() || (written->is_bool() && !written->as_bool());
    if (!off) {
      report.note({fmt::format("distributed.{}", key), fmt::format("has no effect: {}", why), "", written->origin()});
    }
  };
  if (distributed::sizes_of(section).tp_size <= 1) {
    note("tp_plan", "tp_size is 1");
    note("enable_async_tensor_parallel", "tp_size is 1");
  }
  note("pipeline.dtype", "what passes between stages has the type that the stages compute in");
  note("pipeline.scale_grads_in_schedule", "gradients are those of the mean over all tokens in any case");
  note("pipeline.pp_seq_len", "every batch tells its own length");
  note("pipeline.patch_inner_model", "models are made of stages already");
  note("pipeline.patch_causal_lm_model", "models are made of stages already");
  note("pipeline.patch_stage_backward_maybe_with_nosync", "gradients are reduced once in any case");
  note("moe.lm_head_precision", "logits are float32 in any case");
  note("moe.wrap_outer_model", "the weights outside of the layers are a unit of their own");
  note("moe.mp_policy", "experts compute and reduce as the other weights do");
  note("multimodal", "language models have no other towers");
  note("offload_policy", "on the CPU everything is in its memory already");
  note_megatron(note);
  const distributed::CheckpointScope* scope = distributed::scope_of(options);
  if (checkpointing == ActivationCheckpointing::kNone) {
    note("activation_checkpointing_scope", "activation checkpointing is off");
  } else if (scope && !distributed::covers_language(*scope)) {
    note("activation_checkpointing_scope", "it selects no layer of a language model, so nothing is checkpointed");
  }
}

}  // namespace automodel::train

#include "distributed/strategy.h"

namespace automodel::distributed {

void describe(config::Names<Strategy>& n) {
  n("fsdp2", Strategy::kFsdp2, "weights are cut over the data-parallel ranks");
  n("ddp", Strategy::kDdp, "every rank keeps the whole model");
  n("megatron_fsdp", Strategy::kMegatronFsdp, "weights are cut, in the stages of ZeRO");
  n("megatron-fsdp", Strategy::kMegatronFsdp)("mfsdp", Strategy::kMegatronFsdp);
  n.ignore_case();
}

const char* name_of(Strategy strategy) {
  return strategy == Strategy::kFsdp2 ? "fsdp2" : strategy == Strategy::kDdp ? "ddp" : "megatron_fsdp";
}

std::optional<Strategy> find_strategy(std::string_view name) {
  const auto* found = config::type_of<Strategy>().names().find(name);
  return found ? std::optional(static_cast<Strategy>(found->value)) : std::nullopt;
}

StrategyConfig default_config(Strategy strategy) {
  switch (strategy) {
    case Strategy::kFsdp2:
      return FSDP2Config{};
    case Strategy::kDdp:
      return DDPConfig{};
    case Strategy::kMegatronFsdp:
      break;
  }
  return MegatronFSDPConfig{};
}

const CheckpointScope* scope_of(const StrategyConfig& config) {
  if (const auto* fsdp2 = std::get_if<FSDP2Config>(&config)) return &fsdp2->activation_checkpointing_scope;
  if (const auto* ddp = std::get_if<DDPConfig>(&config)) return &ddp->activation_checkpointing_scope;
  return nullptr;
}

Precision precision_of(const StrategyConfig& config, DType model_dtype) {
  const auto* fsdp2 = std::get_if<FSDP2Config>(&config);
  MixedPrecisionPolicy policy = fsdp2 ? fsdp2->policy() : MixedPrecisionPolicy{};
  const auto* megatron = std::get_if<MegatronFSDPConfig>(&config);
  if (megatron && megatron->grad_reduce_in_fp32) policy.reduce_dtype = DType::kF32;
  return resolve(policy, model_dtype);
}

}  // namespace automodel::distributed

// The strategies of data parallelism, by name and with their options.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "config/schema.h"
#include "distributed/ddp_config.h"
#include "distributed/fsdp2_config.h"
#include "distributed/megatron_fsdp_config.h"

namespace automodel::distributed {

enum class Strategy { kFsdp2, kDdp, kMegatronFsdp };
// fsdp2 | ddp | megatron_fsdp, megatron-fsdp, mfsdp; in any case.
void describe(config::Names<Strategy>&);

using StrategyConfig = std::variant<FSDP2Config, DDPConfig, MegatronFSDPConfig>;  // in the order of Strategy

const char* name_of(Strategy strategy);
std::optional<Strategy> find_strategy(std::string_view name);
inline Strategy strategy_of(const StrategyConfig& config) {
  return static_cast<Strategy>(config.index());
}
// The options of a strategy, at their defaults.
StrategyConfig default_config(Strategy strategy);

// The scope of activation checkpointing as it was given; nothing under megatron_fsdp, which has none.
const CheckpointScope* scope_of(const StrategyConfig& config);

// The element types of the compute: fsdp2's policy; otherwise the type of the model, in which gradients are reduced too
// unless megatron_fsdp has grad_reduce_in_fp32.
Precision precision_of(const StrategyConfig& config, DType model_dtype);

}  // namespace automodel::distributed

// The part of the engine's options that a set-up decides.
#pragma once

#include <optional>

#include "distributed/distributed_setup.h"
#include "engine/engine.h"

namespace automodel::train {

struct Placing {
  distributed::StrategyConfig strategy;
  int replicas = 1;  // dp_replicate_size
  distributed::ActivationCheckpointing checkpointing = distributed::ActivationCheckpointing::kNone;
  distributed::Precision precision = {};
  std::optional<distributed::MoEParallelizerConfig> experts = std::nullopt;  // with expert parallelism
};

// off, full or selective.
const char* checkpointing_of(const engine::EngineOptions& options);

void place_by(engine::EngineOptions& options, const Placing& placing);

}  // namespace automodel::train

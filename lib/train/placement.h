// The part of the engine's options that a set-up decides.
#pragma once

#include "distributed/distributed_setup.h"
#include "engine/engine.h"

namespace automodel::train {

// `replicas`: dp_replicate_size.
void place_by(engine::EngineOptions& options, const distributed::StrategyConfig& strategy, int replicas,
              distributed::ActivationCheckpointing checkpointing, const distributed::Precision& precision);

}  // namespace automodel::train

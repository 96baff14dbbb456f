// The part of the engine's options that a set-up decides.
#pragma once

#include "distributed/distributed_setup.h"
#include "engine/engine.h"

namespace automodel::train {

void place_by(engine::EngineOptions& options, const distributed::StrategyConfig& strategy,
              distributed::ActivationCheckpointing checkpointing, const distributed::Precision& precision);

}  // namespace automodel::train

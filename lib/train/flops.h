// Floating-point operations of a training step, by the formulas that the reference reports utilisation with.
#pragma once

#include <cstdint>

#include "models/causal_lm.h"

namespace automodel::train {

// Forward and backward of `batch` rows of `sequence` tokens.
double training_flops(const models::ModelInfo& info, int64_t batch, int64_t sequence);

}  // namespace automodel::train

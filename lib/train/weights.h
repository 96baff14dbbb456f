// Between the engine's shards and stored tensors: which region of which file each slice is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "engine/engine.h"
#include "train/model_source.h"

namespace automodel::train {

// Fills the master weights from stored tensors (any float type) and publishes them. Every tensor is accounted for: see
// checkpoint::load.
checkpoint::LoadSummary load_weights(engine::Engine& engine, models::CausalLM& model,
                                     const checkpoint::TensorSet& source);

// Weights of the source; initial values of the seed when it has none. The summary of what was read, if anything was.
std::optional<checkpoint::LoadSummary> fill_weights(engine::Engine& engine, ModelSource& source, uint64_t seed);

// Throws Error(kCheckpoint) that lists every missing, surplus and misshapen tensor; reads no weight.
void check_weights(models::CausalLM& model, const checkpoint::TensorSet& source);

// Fills moments, and exact master weights where the checkpoint has them; publishes.
void load_optimizer(engine::Engine& engine, models::CausalLM& model, const checkpoint::TensorSet& source);

// What a checkpoint stores of the weights, in `stored` type, and of the optimizer: exp_avg/NAME, exp_avg_sq/NAME, and
// master/NAME when `stored` is not fp32. With the slices that are this rank's to save.
checkpoint::TensorGroup model_group(const engine::Engine& engine, models::CausalLM& model, DType stored);
checkpoint::TensorGroup optimizer_group(const engine::Engine& engine, models::CausalLM& model, DType stored);

}  // namespace automodel::train

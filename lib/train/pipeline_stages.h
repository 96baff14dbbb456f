// The pipeline of a job: its stages and its schedule, from the `distributed.pipeline` section and the model.
#pragma once

#include <cstdint>

#include "distributed/pipeline_config.h"
#include "engine/engine.h"

namespace automodel::train {

// `rows`: samples of one batch of a rank, which the schedule cuts into microbatches of pp_microbatch_size.
// Throws Error(kConfig): the layers cannot be cut so, the schedule cannot be made for these numbers, or the names of
// module_fqns_per_model_part do not give every part of the model to one stage in order.
engine::Pipeline make_pipeline(const distributed::PipelineConfig& config, models::CausalLM& model, int ranks,
                               int64_t rows);

}  // namespace automodel::train

// The schedule of a pipeline, drawn for people.
#pragma once

#include <string>

#include "distributed/pipeline_config.h"
#include "parallel/schedule.h"

namespace automodel::train {

// The stages, microbatches, bubble and timeline of one run of the schedule on `ranks` pipeline ranks, or why it cannot
// run. Without a model the stages are one a rank, or two, unless the configuration lists them. A whole backward counts
// as two forwards, each half of it as one; transfers count nothing.
std::string pipeline_lines(const distributed::PipelineConfig& config, int ranks);
// The same of a schedule that can run.
std::string pipeline_lines(const parallel::Schedule& schedule);

}  // namespace automodel::train

// What a `distributed:` section may ask for that training cannot do yet. Every such thing is refused by its name.
#pragma once

#include "config/report.h"
#include "distributed/distributed_section.h"

namespace automodel::train {

// Adds a problem for everything that cannot be trained, at the keys of a section.
void check_engine_limits(const distributed::StrategyConfig& strategy, const distributed::ParallelismSizes& sizes,
                         config::Problems& problems);

// The same for a section, whose tree is `node`, and a note for every written key that has no effect on what can be
// trained.
void check_engine_limits(const distributed::DistributedSection& section, const config::Node& node,
                         config::Report& report);

}  // namespace automodel::train

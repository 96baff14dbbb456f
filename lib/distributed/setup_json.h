// A set-up as data, for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "distributed/distributed_section.h"
#include "distributed/distributed_setup.h"

namespace automodel::distributed {

// {"strategy", "strategy_options", "parallelism_sizes", "activation_checkpointing", "pipeline", "moe", "mesh",
// "flattened", "moe_mesh", "groups"}: every option resolved, every group of every axis in full. `asked` are the sizes
// that were asked for. Values that `remarks` keeps as written take the place of the typed ones.
nlohmann::ordered_json to_json(const DistributedSetup& setup, const ParallelismSizes& asked,
                               const SectionRemarks& remarks = {});

// The options of the strategy and the keys of the policies that differ from their defaults, as "key: value". `setup` is
// what to_json returned.
std::vector<std::string> changed_options(const nlohmann::ordered_json& setup);

}  // namespace automodel::distributed

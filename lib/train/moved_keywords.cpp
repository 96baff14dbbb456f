#include "train/moved_keywords.h"

#include <set>

namespace automodel::train {

namespace {

constexpr MovedKeyword kMoved[] = {
    {"activation_checkpointing", "distributed.activation_checkpointing", true},
    {"distributed_config", "distributed", true},
    {"moe_config", "distributed.moe", true},
    {"moe_mesh", "distributed.ep_size, from which the mesh is made", true},
    {"pipeline_config", "distributed.pipeline", true},
    {"tp_plan", "distributed.tp_plan", true},
    {"dp_size", "distributed.dp_size", false},
    {"dp_replicate_size", "distributed.dp_replicate_size", false},
    {"tp_size", "distributed.tp_size", false},
    {"pp_size", "distributed.pp_size", false},
    {"cp_size", "distributed.cp_size", false},
    {"ep_size", "distributed.ep_size", false},
    {"parallelism_sizes", "distributed, where each size is a key", false},
    {"strategy", "distributed.strategy", false},
    {"sequence_parallel", "distributed.sequence_parallel", false},
    {"mp_policy", "distributed.mp_policy", false},
    {"offload_policy", "distributed.offload_policy", false},
    {"moe_parallel_config", "distributed.moe", false},
    {"distributed_setup", "distributed", false},
    {"mesh", "distributed, whose sizes make the mesh", false},
    {"device_mesh", "distributed, whose sizes make the mesh", false},
};

}  // namespace

std::span<const MovedKeyword> moved_keywords() {
  return kMoved;
}

std::vector<std::string> retired_keywords(std::span<const std::string> names) {
  std::set<std::string> found;
  for (const std::string& name : names)
    for (const MovedKeyword& moved : kMoved)
      if (moved.retired && name == moved.name) found.insert(name);
  return {found.begin(), found.end()};
}

}  // namespace automodel::train

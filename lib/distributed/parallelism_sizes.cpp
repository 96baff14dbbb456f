#include "distributed/parallelism_sizes.h"

#include <fmt/core.h>

namespace automodel::distributed {

namespace {

// Axes that this program cannot cut a model along yet.
void refuse_unbuilt_axes(const ParallelismSizes& sizes, config::Problems& problems) {
  const auto refuse = [&](const char* key, int64_t size, const char* what) {
    if (size <= 1) return;
    problems.add(key, fmt::format("{} is {}; {} is not supported yet", key, size, what),
                 fmt::format("write {}: 1", key));
  };
  refuse("tp_size", sizes.tp_size, "tensor parallelism");
  refuse("pp_size", sizes.pp_size, "pipeline parallelism");
  refuse("cp_size", sizes.cp_size, "context parallelism");
  refuse("ep_size", sizes.ep_size, "expert parallelism");
  refuse("dp_replicate_size", sizes.dp_replicate_size.value_or(1), "replicated sharding");
}

}  // namespace

void describe(config::Fields<ParallelismSizes>& f) {
  using S = ParallelismSizes;
  f.doc("Sizes of the parallel axes.");
  f("dp_size", &S::dp_size, "Data-parallel ranks, replicas included. Default: what the other sizes leave of the job.");
  f("dp_replicate_size", &S::dp_replicate_size, "Copies of the sharded model (fsdp2).").at_least(1);
  f("tp_size", &S::tp_size, "Tensor-parallel ranks.").at_least(1).null_is_default();
  f("pp_size", &S::pp_size, "Pipeline stages.").at_least(1).null_is_default();
  f("cp_size", &S::cp_size, "Context-parallel ranks: each holds a part of every sequence.")
      .at_least(1)
      .null_is_default();
  f("ep_size", &S::ep_size, "Expert-parallel ranks; they are taken from the ranks of the other axes.")
      .at_least(1)
      .null_is_default();
  f.check(refuse_unbuilt_axes);
}

}  // namespace automodel::distributed

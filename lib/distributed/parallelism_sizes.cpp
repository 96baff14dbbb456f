#include "distributed/parallelism_sizes.h"

namespace automodel::distributed {

void describe(config::Fields<ParallelismSizes>& f) {
  using S = ParallelismSizes;
  f.doc("Sizes of the parallel axes.");
  f("dp_size", &S::dp_size, "Data-parallel ranks, replicas included. Default: what the other sizes leave of the job.");
  f("dp_replicate_size", &S::dp_replicate_size, "Copies of the sharded model (fsdp2).").at_least(1);
  f("tp_size", &S::tp_size, "Tensor-parallel ranks.").at_least(1).null_is_default();
  f("pp_size", &S::pp_size, "Pipeline-parallel ranks.").at_least(1).null_is_default();
  f("cp_size", &S::cp_size, "Context-parallel ranks: each holds a part of every sequence.")
      .at_least(1)
      .null_is_default();
  f("ep_size", &S::ep_size, "Expert-parallel ranks; they are taken from the ranks of the other axes of a stage.")
      .at_least(1)
      .null_is_default();
}

}  // namespace automodel::distributed

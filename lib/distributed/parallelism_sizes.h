// The sizes of the parallel axes as they are asked for. The set-up's own sizes come from its mesh.
#pragma once

#include <cstdint>
#include <optional>

#include "config/schema.h"

namespace automodel::distributed {

struct ParallelismSizes {
  std::optional<int64_t> dp_size =
      std::nullopt;  // replicas included; null, 0 or less: what the other sizes leave of the job
  std::optional<int64_t> dp_replicate_size = std::nullopt;  // copies of the sharded model (fsdp2); null: 1
  int64_t tp_size = 1;
  int64_t pp_size = 1;
  int64_t cp_size = 1;
  int64_t ep_size = 1;  // taken from the ranks of the other axes of a stage; it does not multiply the job

  // The requested data-parallel size, or nothing when it is to be inferred.
  std::optional<int64_t> requested_dp() const { return dp_size && *dp_size > 0 ? dp_size : std::nullopt; }
};
void describe(config::Fields<ParallelismSizes>&);

}  // namespace automodel::distributed

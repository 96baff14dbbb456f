// Where the shards of an fsdp2 model live between their uses.
#pragma once

#include "config/schema.h"

namespace automodel::distributed {

struct OffloadPolicy {
  bool to_cpu = true;      // weights, gradients and optimizer state in host memory; false: the policy does nothing
  bool pin_memory = true;  // page-locked, so that copies overlap with compute
};
void describe(config::Fields<OffloadPolicy>&);

}  // namespace automodel::distributed

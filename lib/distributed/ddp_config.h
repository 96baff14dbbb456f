// Options of the strategy ddp: every rank keeps the whole model, gradients are summed in buckets.
#pragma once

#include <optional>

#include "config/schema.h"

namespace automodel::distributed {

struct DDPConfig {
  std::optional<double> bucket_cap_mb;  // MiB of gradients per reduction; null: 25
};
void describe(config::Fields<DDPConfig>&);

}  // namespace automodel::distributed

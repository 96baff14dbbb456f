// Values that the reference takes without looking at them.
#pragma once

#include <string>

#include "config/schema.h"
#include "distributed/distributed_section.h"

namespace automodel::distributed {

// Moves the values of options that are of another type than `schema` says, or out of its bounds, from the section to
// `remarks.as_written`, with a warning each. Stays away from what the reference checks: names of element types, sizes,
// scopes, activation checkpointing, multimodal policies, unknown keys. `key` is the path of the section.
void keep_unchecked(config::Node& section, const config::Schema& schema, SectionRemarks& remarks,
                    const std::string& key);

}  // namespace automodel::distributed

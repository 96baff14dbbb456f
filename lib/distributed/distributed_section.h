// The `distributed:` section of a recipe: a strategy, the sizes of the axes, and the options of that strategy.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "config/report.h"
#include "config/schema.h"
#include "distributed/ddp_config.h"
#include "distributed/fsdp2_config.h"
#include "distributed/parallelism_sizes.h"

namespace automodel::distributed {

enum class Strategy { kFsdp2, kDdp, kMegatronFsdp };
void describe(config::Names<Strategy>&);

// The section under each strategy. Keys of all parts stand side by side.
struct FSDP2Section {
  Strategy strategy = Strategy::kFsdp2;
  ParallelismSizes sizes;
  FSDP2Config options;
};
struct DDPSection {
  Strategy strategy = Strategy::kDdp;
  ParallelismSizes sizes;
  DDPConfig options;
};
void describe(config::Fields<FSDP2Section>&);
void describe(config::Fields<DDPSection>&);

using DistributedSection = std::variant<FSDP2Section, DDPSection>;

// Readies the section as written for config::read<DistributedSection>: drops `_target_`, `_recursive_` and `_convert_`,
// which never meant anything here, and lets `strategy` (any case; fsdp2 when left out) choose the struct, by a
// `_target_` of our own. Unknown strategies and options of another strategy become problems and are taken out. `key` is
// the path of the section.
void prepare_section(config::Node& section, config::Report& report, const std::string& key = "distributed");

// Undoes the `_target_` of prepare_section in a dump.
void tidy_dump(config::Node& section);

Strategy strategy_of(const DistributedSection& section);
const ParallelismSizes& sizes_of(const DistributedSection& section);

// The element types of the compute: fsdp2's policy; under ddp the type of the model.
Precision precision_of(const DistributedSection& section, DType model_dtype);

struct DataParallel {
  int64_t dp_size = 1;
};
// Data parallelism over `world_size` ranks. Every rank must be used: what does not fit becomes a problem that shows the
// arithmetic. `problems` belongs to the section.
DataParallel resolve_data_parallel(const DistributedSection& section, int64_t world_size, config::Problems& problems);

}  // namespace automodel::distributed

// The `distributed:` section of a recipe: a strategy, the sizes of the axes, policies, and the options of the strategy,
// all side by side. It is checked by rules of its own, which differ from DistributedSetup::build: a `pipeline` block
// without use is dropped with a warning and a `moe` block silently, while pp_size above 1 needs a `pipeline` block.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/report.h"
#include "config/schema.h"
#include "distributed/distributed_setup.h"

namespace automodel::distributed {

// The section under one strategy.
template <class Options>
struct SectionOf {
  Strategy strategy = Strategy::kFsdp2;
  ParallelismSizes sizes;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  std::optional<PipelineConfig> pipeline = std::nullopt;
  std::optional<MoEParallelizerConfig> moe = std::nullopt;
  Options options;
};
using FSDP2Section = SectionOf<FSDP2Config>;
using DDPSection = SectionOf<DDPConfig>;
using MegatronFSDPSection = SectionOf<MegatronFSDPConfig>;
void describe(config::Fields<FSDP2Section>&);
void describe(config::Fields<DDPSection>&);
void describe(config::Fields<MegatronFSDPSection>&);

using DistributedSection = std::variant<FSDP2Section, DDPSection, MegatronFSDPSection>;  // in the order of Strategy

// What is said about a section besides its mistakes.
struct SectionRemarks {
  std::vector<config::Problem> warnings;
  // With keep_unchecked, values of a type that the reference does not check although nothing can come of it
  // (sequence_parallel: maybe) are taken out of the section into `as_written`, under their path in it, with a warning.
  // Otherwise config::read finds them wrong.
  bool keep_unchecked = false;
  std::vector<std::pair<std::string, config::Node>> as_written;

  const config::Node* written(std::string_view path) const;
};

// Readies the section as written for config::read<DistributedSection>: applies the reference's translation of text
// ("none", "2"), drops `_target_`, `_recursive_` and `_convert_`, which never meant anything here, drops blocks without
// use, and lets `strategy` (any case; fsdp2 when left out) choose the struct, by a `_target_` of our own. Mistakes that
// the description of a struct cannot express become problems. `key` is the path of the section.
void prepare_section(config::Node& section, config::Report& report, SectionRemarks& remarks,
                     const std::string& key = "distributed");

// Undoes the `_target_` of prepare_section in a dump.
void tidy_dump(config::Node& section);

inline Strategy strategy_of(const DistributedSection& section) {
  return static_cast<Strategy>(section.index());
}
const ParallelismSizes& sizes_of(const DistributedSection& section);
ActivationCheckpointing activation_checkpointing_of(const DistributedSection& section);
// The options of the strategy.
StrategyConfig options_of(const DistributedSection& section);
// As the function of StrategyConfig.
Precision precision_of(const DistributedSection& section, DType model_dtype);

struct SectionWorld {
  int64_t world_size = 1;
  std::optional<double> timeout_minutes = std::nullopt;
  std::vector<int> ranks = {};  // see MeshRequest
  std::optional<int64_t> job_size = std::nullopt;
};
// The set-up that a section without mistakes means on a number of ranks. Rules of the mesh that it breaks become
// problems, which belong to the section; then there is no set-up. Warnings are appended.
std::optional<DistributedSetup> resolve_section(const DistributedSection& section, const SectionWorld& world,
                                                config::Problems& problems, std::vector<config::Problem>& warnings);

// From a tree that holds a `distributed` mapping, or is one: everything at once, as DistributedSetup::build does from
// structs. `keywords` are keys of the section that win over it unless they are null. Without a time limit of its own
// the tree's dist_env.timeout_minutes counts. Throws Error(kConfig) with every mistake.
struct SectionRequest {
  config::Node config;                               // null: an empty section
  config::Node keywords;                             // null: none
  std::optional<int64_t> world_size = std::nullopt;  // nothing: WORLD_SIZE of the environment, else 1
  std::optional<double> timeout_minutes = std::nullopt;
  std::vector<int> ranks = {};
  std::optional<int64_t> job_size = std::nullopt;
};
DistributedSetup create_distributed_setup(const SectionRequest& request);

}  // namespace automodel::distributed

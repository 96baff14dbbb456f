// The set-up of a job: its strategy, mesh and policies, checked as a whole. From C++:
//
//   DistributedSetup setup = DistributedSetup::build({
//       .strategy = FSDP2Config{.sequence_parallel = true},
//       .parallelism_sizes = {.tp_size = 2},
//       .activation_checkpointing = ActivationCheckpointing::kFull,
//       .world_size = 8,
//   });
//
// A recipe's `distributed:` section leads to the same type, with the rules of distributed_section.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/node.h"
#include "config/report.h"
#include "distributed/activation_checkpointing.h"
#include "distributed/mesh_context.h"
#include "distributed/moe_parallelizer_config.h"
#include "distributed/parallelism_sizes.h"
#include "distributed/pipeline_config.h"
#include "distributed/strategy.h"

namespace automodel::distributed {

// A strategy by its name, with default options, or by its options.
class StrategyArgument {
 public:
  StrategyArgument(const char* name) : value_(std::string(name)) {}
  StrategyArgument(std::string name) : value_(std::move(name)) {}
  StrategyArgument(FSDP2Config config) : value_(std::move(config)) {}
  StrategyArgument(DDPConfig config) : value_(std::move(config)) {}
  StrategyArgument(MegatronFSDPConfig config) : value_(std::move(config)) {}

  const std::variant<std::string, FSDP2Config, DDPConfig, MegatronFSDPConfig>& value() const { return value_; }

 private:
  std::variant<std::string, FSDP2Config, DDPConfig, MegatronFSDPConfig> value_;
};

// A policy as a struct, or as a map of its keys; nothing: the default where one is needed.
template <class T>
using PolicyArgument = std::variant<std::monostate, T, config::Node>;

struct SetupRequest {
  StrategyArgument strategy = "fsdp2";
  ParallelismSizes parallelism_sizes = {};
  PolicyArgument<PipelineConfig> pipeline_config = {};
  PolicyArgument<MoEParallelizerConfig> moe_parallel_config = {};
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  std::optional<int64_t> world_size = std::nullopt;  // nothing: WORLD_SIZE of the environment, else 1
  std::optional<double> timeout_minutes = std::nullopt;
  std::vector<int> ranks = {};                     // see MeshRequest
  std::optional<int64_t> job_size = std::nullopt;  // see MeshRequest
};

struct DistributedSetup {
  MeshContext mesh_context;
  StrategyConfig strategy_config;
  std::optional<PipelineConfig> pipeline_config = std::nullopt;             // exactly when pp_size is above 1
  std::optional<MoEParallelizerConfig> moe_parallel_config = std::nullopt;  // exactly when ep_size is above 1
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  std::optional<double> timeout_minutes = std::nullopt;  // the longest that ranks wait for each other

  Strategy strategy() const { return distributed::strategy_of(strategy_config); }

  // Throws Error(kConfig) with every mistake. The strategy's own activation_checkpointing does not count.
  static DistributedSetup build(const SetupRequest& request);
};

// WORLD_SIZE of the environment, else 1.
int64_t world_size_of_environment();

}  // namespace automodel::distributed

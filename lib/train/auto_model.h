// The loaders: a model by its folder or its config, placed on the ranks as a set-up says, ready to train or evaluate.
//
//   comm::World& world = ...;  // see run_as_rank() in train/ranks.h
//   auto setup = distributed::DistributedSetup::build({.strategy = "fsdp2", .world_size = world.size()});
//   auto model = AutoModelForCausalLM::from_pretrained("models/Llama-3.2-1B", world, {.distributed_setup = &setup});
//   double loss = model->engine().evaluate(to_tokens(ids, model->engine().token_memory()));
//
// Everything about the ranks is in the set-up: there are no arguments for sizes, plans or policies beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "data/tokenizer.h"
#include "distributed/distributed_setup.h"
#include "engine/engine.h"
#include "parallel/job_groups.h"
#include "train/device.h"
#include "train/model_source.h"

namespace automodel::train {

struct LoadOptions {
  // At most one of the two. A mesh alone has no strategy: it is checked against the model, and each rank has a whole
  // model to itself; so it has without either. Both are read during the call only.
  const distributed::DistributedSetup* distributed_setup = nullptr;
  const comm::DeviceMesh* device_mesh = nullptr;

  ops::ContextMethod context_method = ops::ContextMethod::kAllGather;  // with context parallelism

  std::optional<DType> torch_dtype = std::nullopt;    // of stored weights; nothing: the checkpoint's, bfloat16 if new
  config::Node config_changes = config::Node::map();  // fields of config.json to change
  std::string revision = "main";                      // of a hub id
  std::string cache_dir = "";                         // of the hub; empty: see checkpoint::ModelLocation
  uint64_t seed = 42;                                 // of initial weights
  DeviceChoice device = DeviceChoice::kAuto;
  bool trains = true;  // false: without optimizer state; engine().step() is not there
  // The optimizer and clipping; the set-up and `trains` decide the rest.
  engine::EngineOptions engine = {};
};

// What the loaders make of the two arguments.
struct ResolvedSetup {
  distributed::MeshContext mesh_context;
  std::optional<distributed::StrategyConfig> strategy_config;  // nothing without a set-up, like the rest
  std::optional<distributed::PipelineConfig> pipeline_config;
  std::optional<distributed::MoEParallelizerConfig> moe_parallel_config;
  distributed::ActivationCheckpointing activation_checkpointing = distributed::ActivationCheckpointing::kNone;
  ops::ContextMethod context_method = ops::ContextMethod::kAllGather;
  DeviceChoice device = DeviceChoice::kAuto;
};
// Error(kUsage): both are given. Error(kConfig): the mesh has an axis of an unknown name.
ResolvedSetup resolve_setup(const LoadOptions& options);

// A model on this rank of its data-parallel group, with its memory.
class PlacedModel {
 public:
  // Allocates; the weights are not filled yet. Throws Error(kConfig) with everything at once: the set-up is of another
  // number of ranks, cannot cut the model, or needs what the engine cannot do yet. `world` outlives the model.
  PlacedModel(ModelSource source, comm::World& world, const ResolvedSetup& setup,
              const engine::EngineOptions& options = {});
  ~PlacedModel();

  // Weights of the source; initial values of the seed when it has none. Collective.
  void fill(uint64_t seed = 42);

  const models::ModelInfo& info() const { return source_.model->info(); }
  const ModelSource& source() const { return source_; }
  models::CausalLM& model() { return *source_.model; }
  engine::Engine& engine() { return *engine_; }
  const distributed::MeshContext& mesh_context() const { return mesh_context_; }
  // The ranks that share a global batch.
  comm::Communicator& data_ranks() { return groups_->batch(); }
  // The tokenizer beside the weights; null when there is none.
  std::shared_ptr<const data::Tokenizer> tokenizer() const;

 private:
  ModelSource source_;
  distributed::MeshContext mesh_context_;
  RankDevice device_;
  std::unique_ptr<comm::Communicator> alone_;  // without a strategy
  std::unique_ptr<parallel::JobGroups> groups_;
  std::unique_ptr<engine::Engine> engine_;
};

enum class Task { kCausalLM, kImageTextToText, kSequenceClassification, kTokenClassification };

// Throw Error with everything that is wrong: see resolve_setup(), open_model() and PlacedModel. Collective.
template <Task task>
struct AutoModelFor {
  // `name`: a model folder, a checkpoint, a run's checkpoint folder, or a hub id in the local cache.
  static std::unique_ptr<PlacedModel> from_pretrained(const std::string& name, comm::World& world,
                                                      const LoadOptions& options = {});
  // A new model; `name` may also be a config.json.
  static std::unique_ptr<PlacedModel> from_config(const std::string& name, comm::World& world,
                                                  const LoadOptions& options = {});
  // A new model of a config in memory, which needs model_type.
  static std::unique_ptr<PlacedModel> from_config(const config::Node& config, comm::World& world,
                                                  const LoadOptions& options = {});
};

using AutoModelForCausalLM = AutoModelFor<Task::kCausalLM>;
// Not built yet: refused with a message that says what is.
using AutoModelForImageTextToText = AutoModelFor<Task::kImageTextToText>;
using AutoModelForSequenceClassification = AutoModelFor<Task::kSequenceClassification>;
using AutoModelForTokenClassification = AutoModelFor<Task::kTokenClassification>;

}  // namespace automodel::train

#include "train/auto_model.h"

#include <fmt/format.h>

#include "checkpoint/directory.h"
#include "core/error.h"
#include "core/file.h"
#include "models/capabilities.h"
#include "train/engine_limits.h"
#include "train/pipeline_stages.h"
#include "train/placement.h"
#include "train/weights.h"

namespace automodel::train {

namespace {

distributed::ParallelismSizes sizes_of(const distributed::MeshContext& mesh) {
  distributed::ParallelismSizes sizes;
  sizes.tp_size = mesh.tp_size();
  sizes.pp_size = mesh.pp_size();
  sizes.cp_size = mesh.cp_size();
  sizes.ep_size = mesh.ep_size();
  sizes.dp_replicate_size = mesh.dp_replicate_size().value_or(1);
  return sizes;
}

void check_ranks(const distributed::MeshContext& mesh, const comm::World& world, config::Problems& problems) {
  if (mesh.world_size() != world.size()) {
    problems.add("world_size",
                 fmt::format("the set-up is for {} ranks, the job has {}", mesh.world_size(), world.size()),
                 "build it with world_size = world.size()");
  } else if (mesh.device_mesh() && !mesh.device_mesh()->contains(world.rank())) {
    problems.add("ranks", fmt::format("the mesh does not have rank {}", world.rank()),
                 "only ranks of the mesh load the model");
  }
}

// Makes the model as the set-up has it cut. Throws everything that keeps it from being placed.
void check(ModelSource& source, const comm::World& world, const ResolvedSetup& setup) {
  config::Report report;
  const config::Node nowhere;
  config::Problems problems(report, nowhere, "");
  const distributed::ParallelismSizes sizes = sizes_of(setup.mesh_context);
  if (setup.strategy_config) cut_model(source, *setup.strategy_config, problems);
  models::check_capabilities(source.model->info(), sizes, problems);
  if (setup.strategy_config) {
    check_ranks(setup.mesh_context, world, problems);
    check_engine_limits(*setup.strategy_config, sizes, problems);
  }
  report.throw_if_any();
}

const char* name_of(Task task) {
  switch (task) {
    case Task::kCausalLM:
      return "AutoModelForCausalLM";
    case Task::kImageTextToText:
      return "AutoModelForImageTextToText";
    case Task::kSequenceClassification:
      return "AutoModelForSequenceClassification";
    case Task::kTokenClassification:
      return "AutoModelForTokenClassification";
  }
  return "";
}

void check_task(Task task, const std::string& name) {
  if (task == Task::kCausalLM) return;
  std::vector<std::string> families;
  for (const models::Family* family : models::families()) families.emplace_back(family->model_type);
  fail(Fault::kUsage, "{}: {} is not supported yet; supported is {}, for {}", name, name_of(task),
       name_of(Task::kCausalLM), fmt::join(families, ", "));
}

template <class Section>
std::unique_ptr<PlacedModel> place(Section section, comm::World& world, const ResolvedSetup& setup,
                                   const LoadOptions& options) {
  section.torch_dtype = options.torch_dtype;
  section.revision = options.revision;
  section.cache_dir = options.cache_dir;
  section.overrides = options.config_changes;
  engine::EngineOptions engine = options.engine;
  engine.trains = options.trains;
  auto model = std::make_unique<PlacedModel>(open_model(section), world, setup, engine);
  model->fill(options.seed);
  return model;
}

// A run's checkpoint folder means its latest checkpoint.
std::string model_folder(const std::string& name) {
  auto latest = checkpoint::read_pointer(name, checkpoint::kLatest);
  return latest ? latest->string() : name;
}

}  // namespace

ResolvedSetup resolve_setup(const LoadOptions& options) {
  AM_CHECK(options.distributed_setup == nullptr || options.device_mesh == nullptr, Fault::kUsage,
           "pass either distributed_setup or device_mesh, not both: the set-up has a mesh of its own");
  ResolvedSetup resolved;
  if (const auto* setup = options.distributed_setup) {
    resolved = {setup->mesh_context,
                setup->strategy_config,
                setup->pipeline_config,
                setup->moe_parallel_config,
                setup->activation_checkpointing,
                options.context_method,
                options.device};
  } else if (options.device_mesh != nullptr) {
    resolved.mesh_context = distributed::MeshContext(*options.device_mesh);
  }
  resolved.device = options.device;
  return resolved;
}

PlacedModel::PlacedModel(ModelSource source, comm::World& world, const ResolvedSetup& setup,
                         const engine::EngineOptions& options)
    : source_(std::move(source)), mesh_context_(setup.mesh_context), device_(setup.device, world) {
  check(source_, world, setup);
  engine::EngineOptions placed = options;
  const auto strategy = setup.strategy_config.value_or(distributed::DDPConfig{});
  place_by(placed, {.strategy = strategy,
                    .replicas = mesh_context_.dp_replicate_size().value_or(1),
                    .checkpointing = setup.activation_checkpointing,
                    .precision = distributed::precision_of(strategy, source_.storage),
                    .experts = setup.moe_parallel_config});
  if (!setup.strategy_config) {
    alone_ = device_.ranks().group(std::vector<int>{world.rank()}, "alone");
    groups_ = std::make_unique<parallel::JobGroups>(distributed::MeshContext(1), *alone_);
  } else {
    groups_ = std::make_unique<parallel::JobGroups>(mesh_context_, device_.ranks(),
                                                    parallel::sharing_of(*setup.strategy_config, setup.context_method));
    if (setup.pipeline_config)
      placed.pipeline = make_pipeline(*setup.pipeline_config, *source_.model, mesh_context_.pp_size(),
                                      setup.pipeline_config->pp_batch_size);
  }
  engine_ = std::make_unique<engine::Engine>(*source_.model, groups_->all(), device_.allocator(), placed);
}

PlacedModel::~PlacedModel() = default;

void PlacedModel::fill(uint64_t seed) {
  fill_weights(*engine_, source_, seed);
}

std::shared_ptr<const data::Tokenizer> PlacedModel::tokenizer() const {
  if (!source_.weights || !fs::exists(source_.weights->folder() / "tokenizer.json")) return nullptr;
  return data::load_tokenizer(source_.weights->folder().string());
}

template <Task task>
std::unique_ptr<PlacedModel> AutoModelFor<task>::from_pretrained(const std::string& name, comm::World& world,
                                                                 const LoadOptions& options) {
  const ResolvedSetup setup = resolve_setup(options);
  check_task(task, name);
  PretrainedModel section;
  section.pretrained_model_name_or_path = model_folder(name);
  return place(std::move(section), world, setup, options);
}

template <Task task>
std::unique_ptr<PlacedModel> AutoModelFor<task>::from_config(const std::string& name, comm::World& world,
                                                             const LoadOptions& options) {
  const ResolvedSetup setup = resolve_setup(options);
  check_task(task, name);
  ConfiguredModel section;
  section.config = name;
  return place(std::move(section), world, setup, options);
}

template <Task task>
std::unique_ptr<PlacedModel> AutoModelFor<task>::from_config(const config::Node& config, comm::World& world,
                                                             const LoadOptions& options) {
  const ResolvedSetup setup = resolve_setup(options);
  check_task(task, "config");
  ConfiguredModel section;
  ModelConfigFields fields;
  fields.fields = config;
  section.config = std::move(fields);
  return place(std::move(section), world, setup, options);
}

template struct AutoModelFor<Task::kCausalLM>;
template struct AutoModelFor<Task::kImageTextToText>;
template struct AutoModelFor<Task::kSequenceClassification>;
template struct AutoModelFor<Task::kTokenClassification>;

}  // namespace automodel::train

#include "train/recipe_config.h"

#include <fmt/core.h>

#include "config/config.h"
#include "core/error.h"
#include "core/file.h"
#include "core/home.h"
#include "train/engine_limits.h"
#include "train/mistakes.h"
#include "train/moved_keywords.h"

namespace automodel::train {

namespace {

bool loads_no_quantised_weights(const config::Node& node) {
  for (const config::Entry& entry : node.entries()) {
    if (entry.key.starts_with("load_in_") && !config::is_off(entry.value)) return false;
  }
  return true;
}

// Sections that belong to features this program does not have yet. Switched off they pass.
void describe_unsupported(config::Fields<RecipeConfig>& f) {
  const std::pair<const char*, const char*> sections[] = {
      {"peft", "adapters (LoRA) are not supported yet"},
      {"fp8", "fp8 is not supported yet"},
      {"qat", "quantisation-aware training is not supported yet"},
      {"wandb", "Weights & Biases is not supported yet; training.jsonl has every number"},
      {"mlflow", "MLflow is not supported yet; training.jsonl has every number"},
      {"comet", "Comet is not supported yet; training.jsonl has every number"},
      {"benchmark", "the benchmark recipe is not supported yet"},
      {"neftune", "NEFTune is not supported yet"},
      {"embedding_row_repair", "the repair of embedding rows is not supported yet"},
      {"moe_metrics", "the balance of experts is not logged yet"},
      {"tool_call_eval", "the evaluation of tool calls is not supported yet"},
      {"teacher_model", "knowledge distillation is not supported yet"},
      {"teacher_distributed", "knowledge distillation is not supported yet"},
      {"kd_loss_fn", "knowledge distillation is not supported yet"},
      {"kd_ratio", "knowledge distillation is not supported yet"},
      {"offload_teacher_model", "knowledge distillation is not supported yet"},
      {"separate_meshes", "knowledge distillation is not supported yet"},
      {"ema", "averaged weights are not supported yet"},
      {"freeze_config", "freezing parts of a model is not supported yet"},
      {"processor", "only text models are supported"},
      {"skypilot", "SkyPilot is not supported; start the job with mpirun, srun or --hosts"},
      {"nemo_run", "NeMo-Run is not supported; start the job with mpirun, srun or --hosts"},
  };
  for (const auto& [key, sentence] : sections) {
    f.key(key).refused(fmt::format("{}; remove this section", sentence), config::is_off);
  }
  f.key("quantization")
      .refused("quantised base models are not supported yet; remove this section", [](const config::Node& node) {
        return config::is_off(node) || (node.is_map() && loads_no_quantised_weights(node));
      });
}

constexpr const char* kUnread = "distributed_config";  // shipped recipes of the reference have it at the top level

void describe_without_effect(config::Fields<RecipeConfig>& f) {
  f.key("compile").no_effect("kernels are compiled ahead");
  f.key("nvtx").no_effect("there are no NVTX ranges on CPUs");
  f.key("prewarm").no_effect("kernels need no warming up");
  f.key("sdpa_method").no_effect("each operation has one implementation here");
  f.key("ci").no_effect("it is for test harnesses");
  for (const char* key : {"parallelizer", "autopipeline", kUnread, "longalign"}) {
    f.key(key).no_effect("the reference does not read it either");
  }
  f.key("_*").no_effect("keys that start with _ are comments");
}

// Parts of the distributed set-up at the top level. What old recipes carry unread has no effect instead.
void describe_moved(config::Fields<RecipeConfig>& f) {
  for (const MovedKeyword& moved : moved_keywords())
    if (std::string_view(moved.name) != kUnread) f.key(moved.name).renamed_to(moved.now);
}

void check_lr_schedule(const RecipeConfig& r, config::Problems& problems) {
  if (!r.lr_scheduler || std::holds_alternative<optim::MatrixOptimizerConfig>(r.optimizer)) return;
  const optim::AdamSettings adam = optim::resolve(r.optimizer);
  // How many steps an epoch has is not known before the data is read, but the run is not longer than this.
  const int64_t at_most = r.step_scheduler.max_steps.value_or(0);
  optim::check_schedule(*r.lr_scheduler, {adam.lr, adam.weight_decay, at_most},
                        [&](std::string_view key, std::string message, std::string hint) {
                          problems.add(fmt::format("lr_scheduler.{}", key), std::move(message), std::move(hint));
                        });
}

void check_tokenizers(const RecipeConfig& r, config::Problems& problems) {
  const auto check = [&](const std::string& key, const data::DatasetConfig& dataset) {
    if (!data::needs_tokenizer(dataset) || tokenizer_for(r, dataset)) return;
    problems.add(key, "this dataset is made from text and the model's config stands in the recipe: no tokenizer",
                 fmt::format("write {}.tokenizer: byte, or name a folder with a tokenizer.json", key));
  };
  check("dataset", r.dataset);
  for (const auto& [name, dataset] : r.validation_datasets) {
    check(name == "default" ? "validation_dataset" : "validation_dataset_" + name, dataset);
  }
  if (r.sample && !tokenizer_for(r, r.dataset)) {
    problems.add("sample", "a sample needs a tokenizer",
                 "write tokenizer: byte, or name a folder with a tokenizer.json");
  }
}

// The reference lets the loader's batches differ from the scheduler's, and then counts samples wrongly.
void check_batch_size(const RecipeConfig& r, config::Problems& problems) {
  const int64_t local = r.step_scheduler.local_batch_size;
  if (r.dataloader.batch_size.value_or(local) == local) return;
  problems.add(
      "dataloader.batch_size",
      fmt::format("batch_size {} differs from step_scheduler.local_batch_size {}", *r.dataloader.batch_size, local),
      "leave batch_size out");
}

void check_batches(const RecipeConfig& r, int64_t dp_size, config::Problems& problems) {
  const StepSchedulerConfig& s = r.step_scheduler;
  if (accumulation_steps(s.global_batch_size, s.local_batch_size, dp_size)) return;
  problems.add(
      "step_scheduler.global_batch_size",
      fmt::format("global_batch_size {} is not a multiple of local_batch_size {} * {} data-parallel ranks = {}",
                  s.global_batch_size, s.local_batch_size, dp_size, s.local_batch_size * dp_size),
      global_batch_hint(s.global_batch_size, s.local_batch_size, dp_size));
}

// A null validation dataset is none.
void drop_null_validation_sets(config::Node& node) {
  std::vector<std::string> absent;
  for (const config::Entry& entry : node.entries()) {
    if (entry.key.starts_with("validation_dataset") && entry.value.is_null()) absent.push_back(entry.key);
  }
  for (const std::string& key : absent) node.erase(key);
}

}  // namespace

void describe(config::Fields<RecipeConfig>& f) {
  using R = RecipeConfig;
  f.doc("A training recipe.");
  f("recipe", &R::recipe, "The training procedure: TrainFinetuneRecipeForNextTokenPrediction.").required();
  f("step_scheduler", &R::step_scheduler, "Batch sizes, the length of the run, and when it validates and saves.")
      .required();
  f("seed", &R::seed, "Seed of everything random. Default: rng.seed, else 42.").at_least(0);
  f("rng", &R::rng, "Random numbers.");
  f("dist_env", &R::dist_env, "How ranks talk.");
  f("model", &R::model, "The model: NeMoAutoModelForCausalLM.from_pretrained or .from_config.").required();
  f("checkpoint", &R::checkpoint, "Saving and resuming.");
  f("distributed", &R::distributed, "How the model lies on the ranks.").default_target("fsdp2");
  f("loss_fn", &R::loss_fn, "The loss. All targets compute the same cross entropy.");
  f("optimizer", &R::optimizer, "The optimizer, such as torch.optim.AdamW.").required();
  f("lr_scheduler", &R::lr_scheduler, "Learning rate and weight decay by step. Absent: constant.");
  f("dataset", &R::dataset, "The training data, such as _target_: text.").required();
  f.group("validation_dataset", &R::validation_datasets, "Validation data; validation_dataset_NAME for several.");
  f("dataloader", &R::dataloader, "How training samples are drawn.").null_is_default();
  f("validation_dataloader", &R::validation_dataloader, "How validation samples are drawn.").null_is_default();
  f("tokenizer", &R::tokenizer, "Tokenizer of the datasets that name none. Default: the model's.");
  f("clip_grad_norm", &R::clip_grad_norm, "Clipping of the gradient's norm.").null_is_default();
  f("mfu", &R::mfu, "What the utilisation is measured against.").null_is_default();
  f("device", &R::device, "What to compute on.");
  f("launch", &R::launch, "How many ranks a run gets.").null_is_default();
  f("context_parallel", &R::context_parallel, "How ranks that share a sequence exchange keys and values.")
      .null_is_default();
  f("sample", &R::sample, "A text that the model continues when training is over.");
  f("packed_sequence", &R::packed_sequence, "Several samples in one row. Not supported yet.").null_is_default();
  describe_unsupported(f);
  describe_without_effect(f);
  describe_moved(f);
  f.check(check_lr_schedule);
  f.check(check_tokenizers);
  f.check(check_batch_size);
  f.check([](const R& r, config::Problems& problems) {
    const auto dp = distributed::sizes_of(r.distributed).requested_dp();
    if (dp && distributed::strategy_of(r.distributed) != distributed::Strategy::kDdp) check_batches(r, *dp, problems);
  });
}

std::optional<data::TokenizerConfig> tokenizer_for(const RecipeConfig& recipe, const data::DatasetConfig& dataset) {
  if (const data::TokenizerConfig* own = data::tokenizer_of(dataset)) return *own;
  if (recipe.tokenizer) return recipe.tokenizer;
  const std::string source = config_source(recipe.model);
  if (source.empty()) return std::nullopt;
  return data::TokenizerConfig(source);
}

config::Node LoadedRecipe::resolved() const {
  config::Node tree = config::to_node(config, &node);
  if (config::Node* section = tree.find("distributed")) distributed::tidy_dump(*section);
  return tree;
}

std::string LoadedRecipe::yaml(bool with_origins) const {
  return config::dump(resolved(), {.origins = with_origins});
}

LoadedRecipe read_recipe(config::Node node, config::Report& report) {
  if (!node.find("distributed")) {
    if (node.is_map()) node.set("distributed", config::Node::map());
  }
  distributed::SectionRemarks remarks;
  if (config::Node* section = node.find("distributed")) distributed::prepare_section(*section, report, remarks);
  drop_null_validation_sets(node);
  LoadedRecipe recipe;
  recipe.config = config::read<RecipeConfig>(node, report);
  const config::Node* section = node.find("distributed");
  recipe.distributed_reads = intact(report, {"distributed"});
  if (section && recipe.distributed_reads) {
    check_engine_limits(recipe.config.distributed, *section, report);
  }
  for (config::Problem& warning : remarks.warnings) report.note(std::move(warning));
  recipe.node = std::move(node);
  recipe.notes = report.notes();
  return recipe;
}

config::Node load_tree(const RecipeSource& source, config::Report& report) {
  const config::Overrides overrides = config::parse_overrides(source.overrides, report);
  std::string path = overrides.config_path.value_or(source.path);
  if (!fs::is_regular_file(path) && fs::is_regular_file(in_home(path))) path = in_home(path).string();
  AM_CHECK(fs::is_regular_file(path), Fault::kUsage,
           "{}: there is no such recipe file\n    hint: a recipe is a YAML file; paths start at the working folder",
           path);
  config::Node tree = config::load_yaml(path);
  if (!tree.is_map() && !tree.is_null()) {
    config::Report wrong;
    wrong.add({"", fmt::format("expected a mapping, got {}", config::show(tree)),
               "a recipe has sections, such as `distributed:`", tree.origin()});
    wrong.throw_if_any();
  }
  config::apply(tree, overrides);
  return tree;
}

LoadedRecipe load_recipe(const RecipeSource& source, config::Report& report) {
  return read_recipe(load_tree(source, report), report);
}

LoadedRecipe load_recipe(const RecipeSource& source) {
  config::Report report;
  LoadedRecipe recipe = load_recipe(source, report);
  report.throw_if_any();
  return recipe;
}

std::optional<distributed::DistributedSetup> check_against_world(const LoadedRecipe& recipe, int64_t world_size,
                                                                 config::Report& report) {
  if (!recipe.distributed_reads || !intact(report, {"step_scheduler"})) return std::nullopt;
  const config::Node* section = recipe.node.find("distributed");
  const config::Node empty = config::Node::map();
  config::Problems of_section(report, section ? *section : empty, "distributed");
  std::vector<config::Problem> warnings;
  auto setup = distributed::resolve_section(recipe.config.distributed,
                                            {world_size, recipe.config.dist_env.timeout_minutes}, of_section, warnings);
  for (config::Problem& warning : warnings) report.note(std::move(warning));
  if (!setup) return std::nullopt;
  config::Problems problems(report, recipe.node, "");
  check_batches(recipe.config, setup->mesh_context.data_ranks(), problems);
  return setup;
}

}  // namespace automodel::train

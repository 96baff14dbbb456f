#include "train/job.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/sampler.h"
#include "models/capabilities.h"
#include "train/mistakes.h"
#include "train/pipeline_stages.h"
#include "train/placement.h"

namespace automodel::train {
namespace {

std::shared_ptr<const data::Tokenizer> open_tokenizer(const Job& job, const data::DatasetConfig& dataset) {
  auto named = tokenizer_for(job.config(), dataset);
  if (!named) return nullptr;
  std::shared_ptr<const data::Tokenizer> tokenizer = data::make_tokenizer(*named);
  data::check_fits(*tokenizer, job.source.model->info().vocab_size);
  return tokenizer;
}

std::shared_ptr<const data::Dataset> open_dataset(const Job& job, const data::DatasetConfig& config,
                                                  const data::Tokenizer* tokenizer) {
  std::shared_ptr<const data::Dataset> dataset =
      data::make_dataset(config, tokenizer, static_cast<uint64_t>(job.config().base_seed()));
  int64_t vocab = job.source.model->info().vocab_size;
  if (auto bound = dataset->id_bound(); bound && *bound > vocab)
    fail(Fault::kData,
         "there are token ids up to {}, the model's vocab_size is {}; use the tokenizer of the model, or give the "
         "model.config at least {} embeddings",
         *bound - 1, vocab, *bound);
  return dataset;
}

// The key of the recipe that names a dataset's tokenizer.
std::string tokenizer_key(const Job& job, const std::string& key) {
  if (job.recipe.node.at_path(key + ".tokenizer") != nullptr) return key + ".tokenizer";
  return job.config().tokenizer ? "tokenizer" : source_key(job.config().model);
}

// The key of the recipe that names a dataset's files.
std::string files_key(const Job& job, const std::string& key) {
  for (const char* name : {".path", ".file_pattern"})
    if (job.recipe.node.at_path(key + name) != nullptr) return key + name;
  return key;
}

// A dataset and its tokenizer, which becomes the job's if it has none.
std::shared_ptr<const data::Dataset> open_one(Job& job, const data::DatasetConfig& config, const std::string& key,
                                              Mistakes& mistakes) {
  std::shared_ptr<const data::Tokenizer> tokenizer;
  std::shared_ptr<const data::Dataset> dataset;
  const config::Node& recipe = job.recipe.node;
  const bool known =
      mistakes.attempt(recipe, tokenizer_key(job, key), [&] { tokenizer = open_tokenizer(job, config); });
  if (known && (tokenizer || !data::needs_tokenizer(config)))
    mistakes.attempt(recipe, files_key(job, key), [&] { dataset = open_dataset(job, config, tokenizer.get()); });
  if (dataset && !job.tokenizer) job.tokenizer = std::move(tokenizer);
  return dataset;
}

// Opens every dataset that can be opened.
void open_data(Job& job, bool for_training, Mistakes& mistakes) {
  if (mistakes.has_stray_section() || !intact(mistakes.report(), {"tokenizer", "seed", "rng"})) return;
  const RecipeConfig& config = job.config();
  const bool sound = intact(mistakes.report(), {"validation_dataset*"});
  if (for_training && intact(mistakes.report(), {"dataset"}))
    job.dataset = open_one(job, config.dataset, "dataset", mistakes);
  if (!sound) return;
  for (const auto& [name, dataset] : config.validation_datasets) {
    std::string key = name == "default" ? "validation_dataset" : "validation_dataset_" + name;
    job.validation[name] = open_one(job, dataset, key, mistakes);
  }
}

// How many steps there are, and the learning rate of each.
void count_steps(Job& job) {
  const RecipeConfig& config = job.config();
  int64_t local = local_batch(job, config.dataloader), ranks = job.setup->mesh_context.data_ranks();
  job.batches_per_epoch = data::batches_per_epoch(job.dataset->size(), local, ranks, config.dataloader.drop_last);
  AM_CHECK(
      job.batches_per_epoch > 0, Fault::kData,
      "dataset: {} samples do not fill one batch of {} on {} ranks with drop_last; use a smaller local_batch_size or "
      "more data",
      job.dataset->size(), local, ranks);
  job.scheduler.emplace(config.step_scheduler, StepSchedulerInputs{static_cast<int>(ranks), job.batches_per_epoch});
  optim::AdamSettings adam = optim::resolve(config.optimizer);
  job.schedule = config.lr_scheduler ? optim::LrSchedule(*config.lr_scheduler,
                                                         {adam.lr, adam.weight_decay, job.scheduler->total_steps()})
                                     : optim::LrSchedule::constant(adam.lr, adam.weight_decay);
}

void find_checkpoint(Job& job) {
  const CheckpointConfig& checkpoint = job.config().checkpoint;
  if (!checkpoint.enabled) {
    if (checkpoint.restore_from)
      job.warnings.push_back("checkpoint.restore_from has no effect because checkpoint.enabled is false");
    return;
  }
  job.resume =
      checkpoint::find_resume({checkpoint.checkpoint_dir, checkpoint.restore_from.value_or(""), job.signature});
  job.warnings.insert(job.warnings.end(), job.resume.warnings.begin(), job.resume.warnings.end());
}

// The recipe, on its number of ranks when it trains. Usable when `report` stays empty.
Job read_job(const RecipeSource& source, int world_size, bool for_training, config::Report& report) {
  Job job;
  job.recipe = load_recipe(source, report);
  job.world_size = world_size;
  if (for_training) job.setup = check_against_world(job.recipe, world_size, report);
  const config::Node* method = job.recipe.node.at_path("context_parallel.method");
  if (job.setup && method != nullptr && job.setup->mesh_context.cp_size() == 1)
    report.note({"context_parallel.method", "has no effect: cp_size is 1", "", method->origin()});
  job.recipe.notes = report.notes();
  return job;
}

// The all-to-all gives every context-parallel rank some of the heads that a tensor-parallel rank has.
void check_context_method(const Job& job, Mistakes& mistakes) {
  if (!job.setup || job.config().context_parallel.method != ops::ContextMethod::kAllToAll) return;
  const models::ModelInfo& info = job.source.model->info();
  int64_t tp = job.setup->mesh_context.tp_size(), cp = job.setup->mesh_context.cp_size();
  std::vector<int64_t> shares{info.cuts_heads ? tp : 1};
  // A tp_plan may leave the heads of some layers whole.
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&job.setup->strategy_config);
  if (fsdp2 != nullptr && fsdp2->tp_plan) shares.push_back(1);
  for (int64_t ranks : shares) {
    ops::HeadLayout layout{info.heads / ranks, std::max<int64_t>(1, info.kv_heads / ranks), info.head_dim};
    if (ops::scatters_heads(layout, static_cast<int>(cp))) continue;
    const config::Node* section = job.recipe.node.find("context_parallel");
    config::Problems problems(mistakes.report(), section ? *section : job.recipe.node, "context_parallel");
    problems.add("method",
                 fmt::format("all_to_all cannot deal {} attention heads and {} key/value heads of a tensor-parallel "
                             "rank to {} context-parallel ranks",
                             layout.heads, layout.kv_heads, cp),
                 "write all_gather or ring, or a cp_size that divides the heads");
    return;
  }
}

// Opens the model, if its section is right, and holds it against the sizes of the axes.
void open_source(Job& job, ModelParts parts, Mistakes& mistakes) {
  const RecipeConfig& config = job.config();
  if (!intact(mistakes.report(), {"model"})) return;
  mistakes.attempt(job.recipe.node, source_key(config.model),
                   [&] { job.source = open_model(config.model, parts, mistakes.report()); });
  if (!job.source.model) return;
  job.precision = distributed::precision_of(config.distributed, job.source.storage);
  const config::Node* section = job.recipe.node.find("distributed");
  config::Problems problems(mistakes.report(), section ? *section : job.recipe.node, "distributed");
  cut_model(job.source, distributed::options_of(config.distributed), problems);
  models::check_capabilities(job.source.model->info(), distributed::sizes_of(config.distributed), problems);
  check_context_method(job, mistakes);
  if (job.setup && job.setup->pipeline_config && intact(mistakes.report(), {"distributed", "step_scheduler"}))
    mistakes.attempt(job.recipe.node, "distributed.pipeline", [&] { engine_options(job); });
}

// What a tp_plan leaves whole is computed by every rank.
void note_plan(Job& job) {
  const models::ModelInfo& info = job.source.model->info();
  if (!job.setup || job.setup->mesh_context.tp_size() == 1) return;
  bool products = info.cuts_heads || info.cuts_mlps;
  if (!products && !info.cuts_vocabulary)
    job.warnings.push_back("distributed.tp_plan cuts nothing: every tensor-parallel rank holds and computes all of it");
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&job.setup->strategy_config);
  if (!products && fsdp2 != nullptr && fsdp2->enable_async_tensor_parallel)
    job.warnings.push_back(
        "distributed.enable_async_tensor_parallel has no effect: distributed.tp_plan cuts no attention and no MLP, so "
        "no rows travel beside products");
}

void note_model(Job& job) {
  note_plan(job);
  for (const std::string& note : job.source.model->info().notes) job.warnings.push_back(note);
}

}  // namespace

Job prepare(const RecipeSource& source, int world_size, bool for_training) {
  config::Report report;
  Mistakes mistakes(report);
  Job job = read_job(source, world_size, for_training, report);
  open_source(job, ModelParts::kAll, mistakes);
  if (job.source.model) {
    job.signature = checkpoint::make_signature(job.source.config_json, job.source.id, false);
    open_data(job, for_training, mistakes);
    const bool named = job.config().checkpoint.restore_from.has_value();
    if (for_training && intact(report, {"checkpoint"}))
      mistakes.attempt(job.recipe.node, named ? "checkpoint.restore_from" : "checkpoint.checkpoint_dir",
                       [&] { find_checkpoint(job); });
  }
  mistakes.throw_if_any();
  if (for_training) count_steps(job);
  note_model(job);
  return job;
}

Job prepare_from_config(const RecipeSource& source, int world_size, config::Report& report) {
  Mistakes mistakes(report);
  Job job = read_job(source, world_size, true, report);
  open_source(job, ModelParts::kConfig, mistakes);
  if (job.source.model) note_model(job);
  return job;
}

engine::EngineOptions engine_options(const Job& job) {
  const RecipeConfig& config = job.config();
  engine::EngineOptions options;
  auto replicas = static_cast<int>(distributed::sizes_of(config.distributed).dp_replicate_size.value_or(1));
  place_by(options, {.strategy = distributed::options_of(config.distributed),
                     .replicas = replicas,
                     .checkpointing = distributed::activation_checkpointing_of(config.distributed),
                     .precision = job.precision,
                     .experts = job.setup ? job.setup->moe_parallel_config : std::nullopt});
  if (job.setup && job.setup->pipeline_config)
    options.pipeline = make_pipeline(*job.setup->pipeline_config, *job.source.model, job.setup->mesh_context.pp_size(),
                                     local_batch(job, config.dataloader));
  options.max_grad_norm = config.clip_grad_norm.max_norm;
  options.dropout_seed = static_cast<uint64_t>(config.base_seed());
  options.adam = optim::resolve(config.optimizer);
  options.group_overrides = optim::param_group_overrides(config.optimizer);
  return options;
}

parallel::SharingOptions sharing_options(const Job& job) {
  return parallel::sharing_of(job.setup->strategy_config, job.config().context_parallel.method);
}

int64_t local_batch(const Job& job, const data::DataloaderConfig& dataloader) {
  return dataloader.batch_size.value_or(job.config().step_scheduler.local_batch_size);
}

data::LoaderOptions loader_options(const Job& job, const data::DataloaderConfig& dataloader, int data_rank,
                                   bool training) {
  data::LoaderOptions options;
  options.sampler.local_batch = local_batch(job, dataloader);
  options.sampler.data_rank = data_rank;
  options.sampler.data_world = job.setup ? job.setup->mesh_context.data_ranks() : job.world_size;
  options.sampler.shuffle = dataloader.shuffle.value_or(training);
  options.sampler.seed = static_cast<uint64_t>(job.config().base_seed());
  options.sampler.drop_last = training && dataloader.drop_last;
  options.collate.pad_seq_len_divisible = dataloader.collate_fn.pad_seq_len_divisible;
  options.collate.vocab_size = job.source.model->info().vocab_size;
  return options;
}

std::vector<int32_t> encode_prompt(const data::Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids = tokenizer.encode(text, true);
  const auto& settings = tokenizer.settings();
  if (settings.add_eos_token && settings.eos_id && !ids.empty() && ids.back() == *settings.eos_id) ids.pop_back();
  return ids;
}

}  // namespace automodel::train

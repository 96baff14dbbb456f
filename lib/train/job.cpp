#include "train/job.h"

#include <fmt/format.h>

#include "core/error.h"
#include "data/sampler.h"

namespace automodel::train {
namespace {

// Tokenizers by what names them, so that datasets share one.
class Tokenizers {
 public:
  explicit Tokenizers(Job& job) : job_(job) {}

  std::shared_ptr<const data::Tokenizer> of(const data::DatasetConfig& dataset) {
    auto named = tokenizer_for(job_.config(), dataset);
    if (!named) return nullptr;
    std::shared_ptr<const data::Tokenizer> made = data::make_tokenizer(*named);
    data::check_fits(*made, job_.source.model->info().vocab_size);
    return made;
  }

 private:
  Job& job_;
};

std::shared_ptr<const data::Dataset> open_dataset(Job& job, const data::DatasetConfig& config, const std::string& key,
                                                  std::shared_ptr<const data::Tokenizer>* tokenizer) {
  std::shared_ptr<const data::Tokenizer> own =
      data::needs_tokenizer(config) || tokenizer_for(job.config(), config) ? Tokenizers(job).of(config) : nullptr;
  AM_CHECK(own != nullptr || !data::needs_tokenizer(config), Fault::kConfig,
           "{}: {}.tokenizer: the text needs a tokenizer and the recipe names none; write `tokenizer: byte`, or the "
           "folder of "
           "a Hugging Face tokenizer",
           job.recipe.node.origin().source ? job.recipe.node.origin().source->name : "recipe", key);
  std::shared_ptr<const data::Dataset> dataset =
      data::make_dataset(config, own.get(), static_cast<uint64_t>(job.config().base_seed()));
  int64_t vocab = job.source.model->info().vocab_size;
  if (auto bound = dataset->id_bound(); bound && *bound > vocab)
    fail(Fault::kData,
         "{}: it has token ids up to {}, the model's vocab_size is {}; use the tokenizer of the model, or give "
         "the model.config at least {} embeddings",
         key, *bound - 1, vocab, *bound);
  if (tokenizer != nullptr) *tokenizer = std::move(own);
  return dataset;
}

void open_training(Job& job) {
  const RecipeConfig& config = job.config();
  job.dataset = open_dataset(job, config.dataset, "dataset", &job.tokenizer);
  int64_t local = config.dataloader.batch_size.value_or(config.step_scheduler.local_batch_size);
  job.batches_per_epoch =
      data::batches_per_epoch(job.dataset->size(), local, job.world_size, config.dataloader.drop_last);
  AM_CHECK(
      job.batches_per_epoch > 0, Fault::kData,
      "dataset: {} samples do not fill one batch of {} on {} ranks with drop_last; use a smaller local_batch_size or "
      "more data",
      job.dataset->size(), local, job.world_size);
  job.scheduler.emplace(config.step_scheduler, StepSchedulerInputs{job.world_size, job.batches_per_epoch});
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
  if (report.empty() && for_training) job.setup = check_against_world(job.recipe, world_size, report);
  return job;
}

void open_source(Job& job, ModelParts parts) {
  job.source = open_model(job.config().model, parts);
  job.precision = distributed::precision_of(job.config().distributed, job.source.storage);
}

void note_model(Job& job) {
  for (const std::string& note : job.source.model->info().notes) job.warnings.push_back(note);
}

}  // namespace

Job prepare(const RecipeSource& source, int world_size, bool for_training) {
  config::Report report;
  Job job = read_job(source, world_size, for_training, report);
  report.throw_if_any();
  open_source(job, ModelParts::kAll);
  job.signature = checkpoint::make_signature(job.source.config_json, job.source.id, false);
  if (for_training) open_training(job);
  for (const auto& [name, config] : job.config().validation_datasets) {
    std::string key = name == "default" ? "validation_dataset" : "validation_dataset_" + name;
    std::shared_ptr<const data::Tokenizer>* keep = job.tokenizer == nullptr ? &job.tokenizer : nullptr;
    job.validation[name] = open_dataset(job, config, key, keep);
  }
  if (for_training) find_checkpoint(job);
  note_model(job);
  return job;
}

Job prepare_from_config(const RecipeSource& source, int world_size, config::Report& report) {
  Job job = read_job(source, world_size, true, report);
  if (!report.empty()) return job;
  open_source(job, ModelParts::kConfig);
  note_model(job);
  return job;
}

engine::EngineOptions engine_options(const Job& job) {
  const RecipeConfig& config = job.config();
  engine::EngineOptions options;
  options.unit.param_dtype = job.precision.param;
  options.unit.reduce_dtype = job.precision.reduce;
  const distributed::StrategyConfig strategy = distributed::options_of(config.distributed);
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy);
  options.unit.shard = fsdp2 != nullptr;
  if (fsdp2 != nullptr) {
    options.reshard_after_forward = fsdp2->reshard_after_forward;
    options.defer_reduce = fsdp2->defer_fsdp_grad_sync;
    if (fsdp2->enable_fsdp2_prefetch) {
      options.prefetch = static_cast<int>(fsdp2->fsdp2_forward_prefetch_depth);
      options.prefetch_backward = static_cast<int>(fsdp2->fsdp2_backward_prefetch_depth);
    }
  }
  const distributed::CheckpointScope* scope = distributed::scope_of(strategy);
  options.activation_checkpointing =
      distributed::activation_checkpointing_of(config.distributed) == distributed::ActivationCheckpointing::kFull &&
      scope != nullptr && distributed::covers_language(*scope);
  options.max_grad_norm = config.clip_grad_norm.max_norm;
  options.adam = optim::resolve(config.optimizer);
  options.group_overrides = optim::param_group_overrides(config.optimizer);
  return options;
}

data::LoaderOptions loader_options(const Job& job, const data::DataloaderConfig& dataloader, int rank, bool training) {
  data::LoaderOptions options;
  options.sampler.local_batch = dataloader.batch_size.value_or(job.config().step_scheduler.local_batch_size);
  options.sampler.data_rank = rank;
  options.sampler.data_world = job.world_size;
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

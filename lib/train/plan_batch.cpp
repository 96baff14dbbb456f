#include "train/plan_batch.h"

#include <fmt/core.h>

#include <algorithm>

#include "core/error.h"
#include "data/sampler.h"

namespace automodel::train {
namespace {

// What a dataset's section says about its samples.
struct Samples {
  int64_t length = 0;
  bool packed = false;
  std::optional<int64_t> count;
  std::string assumed;
};

Samples samples_of(const data::TextConfig& c) {
  return {c.seq_len, false, {}, ""};
}
Samples samples_of(const data::NanogptConfig& c) {
  return {c.seq_len, false, {}, ""};
}
Samples samples_of(const data::MockConfig& c) {
  return {c.seq_len, false, c.num_samples * c.batch_size, ""};
}
Samples samples_of(const data::MockUnpackedConfig& c) {
  return {c.sentences.max_sentence_len + 1, false, c.num_sentences,
          fmt::format("every batch has a sentence of the longest length, dataset.max_sentence_len {} and its end token",
                      c.sentences.max_sentence_len)};
}
Samples samples_of(const data::MockPackedConfig& c) {
  return {c.block_size, true, c.num_blocks, ""};
}
Samples samples_of(const data::UnsupportedDataset& c) {
  fail(Fault::kBug, "dataset: {} has no shape", c.target);
}

Samples samples_of(const data::DatasetConfig& dataset) {
  return std::visit([](const auto& c) { return samples_of(c); }, dataset);
}

plan::BatchShape shape_of(const Samples& samples, int64_t rows, const data::DataloaderConfig& loader) {
  int64_t multiple = loader.collate_fn.pad_seq_len_divisible;
  return {rows, (samples.length + multiple - 1) / multiple * multiple, samples.packed};
}

}  // namespace

BatchPlan plan_batch(const RecipeConfig& recipe, int64_t dp_size) {
  Samples samples = samples_of(recipe.dataset);
  const StepSchedulerConfig& s = recipe.step_scheduler;
  int64_t local = recipe.dataloader.batch_size.value_or(s.local_batch_size);

  BatchPlan plan;
  plan.microbatch = shape_of(samples, local, recipe.dataloader);
  plan.global_batch = s.global_batch_size;
  plan.accumulation = accumulation_steps(s.global_batch_size, local, dp_size).value_or(1);
  plan.dp_size = dp_size;
  plan.assumed = samples.assumed;
  plan.samples = samples.count;
  plan.steps = s.max_steps;
  if (!samples.count) return plan;

  int64_t batches = data::batches_per_epoch(*samples.count, local, dp_size, recipe.dataloader.drop_last);
  AM_CHECK(batches > 0, Fault::kData,
           "dataset: {} samples do not fill one batch of {} on {} ranks with drop_last; use a smaller local_batch_size "
           "or more data",
           *samples.count, local, dp_size);
  StepScheduler scheduler(s, {dp_size, batches});
  plan.epoch_steps = scheduler.steps_per_epoch();
  plan.steps = scheduler.total_steps();
  // Data that does not fill a step, or a microbatch, makes them smaller.
  plan.accumulation = std::min(plan.accumulation, batches);
  plan.microbatch.rows = std::min(local, (*samples.count + dp_size - 1) / dp_size);
  if (*samples.count < s.global_batch_size) {
    plan.assumed += fmt::format("{}the data has {} samples, fewer than the {} of step_scheduler.global_batch_size",
                                plan.assumed.empty() ? "" : "; ", *samples.count, s.global_batch_size);
  }
  return plan;
}

std::vector<plan::BatchShape> validation_batches(const RecipeConfig& recipe) {
  std::vector<plan::BatchShape> shapes;
  const data::DataloaderConfig& loader = recipe.validation_dataloader;
  for (const auto& [name, dataset] : recipe.validation_datasets)
    shapes.push_back(
        shape_of(samples_of(dataset), loader.batch_size.value_or(recipe.step_scheduler.local_batch_size), loader));
  return shapes;
}

}  // namespace automodel::train

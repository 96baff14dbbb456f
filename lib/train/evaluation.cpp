#include "train/evaluation.h"

#include "train/tokens.h"
#include "train/weights.h"

namespace automodel::train {

std::pair<double, int64_t> evaluate(engine::Engine& engine, const Job& job, comm::Communicator& ranks,
                                    std::shared_ptr<const data::Dataset> dataset) {
  data::Loader loader(std::move(dataset), loader_options(job, job.config().validation_dataloader, ranks.rank(), false));
  double sum = 0;
  int64_t labels = 0;
  for (int64_t i = 0; i < loader.batches_per_epoch(); ++i) {
    data::Batch batch = loader.next();
    sum += engine.evaluate(to_tokens(batch, engine.token_memory()));
    labels += batch.label_count;
  }
  sum = ranks.reduced(sum, comm::Reduce::kSum);
  labels = ranks.reduced(labels, comm::Reduce::kSum);
  return {labels > 0 ? sum / static_cast<double>(labels) : 0.0, labels};
}

std::string fill_for_evaluation(engine::Engine& engine, Job& job) {
  const auto& checkpoint = job.config().checkpoint;
  bool asked = checkpoint.restore_from.has_value();
  if (asked || !job.source.weights) {
    auto found =
        checkpoint::find_resume({checkpoint.checkpoint_dir, checkpoint.restore_from.value_or(""), job.signature});
    if (found.point) {
      checkpoint::HfModelDir dir(found.point->folder);
      load_weights(engine, *job.source.model, dir.tensors());
      return "weights of the checkpoint " + found.point->folder.string();
    }
  }
  fill_weights(engine, job.source, static_cast<uint64_t>(job.config().base_seed()));
  if (job.source.weights) return "weights of " + job.source.weights->folder().string();
  return "initial weights: there is no checkpoint in " + checkpoint.checkpoint_dir;
}

}  // namespace automodel::train

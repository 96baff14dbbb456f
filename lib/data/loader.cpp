#include "data/loader.h"

#include "core/error.h"

namespace automodel::data {
namespace {

SamplerOptions sized(SamplerOptions options, const Dataset& dataset) {
  options.size = dataset.size();
  return options;
}

}  // namespace

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options)
    : dataset_(std::move(dataset)), options_(options), sampler_(sized(options.sampler, *dataset_)) {
  AM_CHECK(options_.collate.pad_seq_len_divisible > 0, Fault::kConfig,
           "dataloader: pad_seq_len_divisible must be above 0, but is {}", options_.collate.pad_seq_len_divisible);
}

Loader::~Loader() {
  if (ahead_.valid()) ahead_.wait();
}

Batch Loader::make(LoaderState state) {
  std::vector<int64_t> indices = sampler_.samples(state.epoch, state.batch);
  if (indices.empty()) return make_filler(dataset_->at(0), options_.collate);
  std::vector<Sample> samples;
  samples.reserve(indices.size());
  for (int64_t index : indices) samples.push_back(dataset_->at(index));
  return collate(samples, indices, options_.collate);
}

void Loader::prefetch() {
  ahead_ = std::async(std::launch::async, [this, state = state_] { return make(state); });
}

Batch Loader::next() {
  if (!ahead_.valid()) prefetch();
  Batch batch = ahead_.get();
  if (++state_.batch == batches_per_epoch()) state_ = {state_.epoch + 1, 0};
  prefetch();
  return batch;
}

void Loader::seek(LoaderState state) {
  AM_CHECK(
      state.epoch >= 0 && state.batch >= 0 && state.batch <= batches_per_epoch(), Fault::kData,
      "the saved place of the data, batch {} of epoch {}, is not in an epoch of {} batches; were the data or the batch "
      "size changed?",
      state.batch, state.epoch, batches_per_epoch());
  if (ahead_.valid()) {
    ahead_.wait();
    ahead_ = {};
  }
  state_ = state.batch == batches_per_epoch() ? LoaderState{state.epoch + 1, 0} : state;
}

}  // namespace automodel::data

// Reads a data rank's share of a dataset, microbatch after microbatch, one ahead on a thread of its own.
#pragma once

#include <future>
#include <memory>

#include "data/batch.h"
#include "data/sampler.h"

namespace automodel::data {

struct LoaderOptions {
  SamplerOptions sampler;  // `size` is taken from the dataset
  CollateOptions collate;
};

// Everything that a loader must remember: the microbatch that comes next.
struct LoaderState {
  int64_t epoch = 0;
  int64_t batch = 0;
  bool operator==(const LoaderState&) const = default;
};

// One thread at a time. What it yields depends on the dataset, the options and the state alone.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches_per_epoch() const { return sampler_.batches_per_epoch(); }

  // Of a microbatch, over all ranks.
  int64_t samples_per_batch() const { return options_.sampler.local_batch * options_.sampler.data_world; }

  // The next microbatch. Epochs follow each other without end: after the last batch of an epoch state() is {epoch + 1,
  // 0}. Rethrows what reading the samples threw.
  Batch next();

  LoaderState state() const { return state_; }
  // Continues as a loader that has come to `state` would. No matter how far it is: nothing is read to get there.
  void seek(LoaderState state);

 private:
  Batch make(LoaderState state);
  void prefetch();

  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  Sampler sampler_;  // used by the prefetching thread alone while `ahead_` is under way
  LoaderState state_;
  std::future<Batch> ahead_;
};

}  // namespace automodel::data

#include "data/sampler.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace automodel::data {
namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

int64_t batches_per_epoch(int64_t size, int64_t local_batch, int64_t data_world, bool drop_last) {
  if (drop_last) return size / data_world / local_batch;
  return divide_up(divide_up(size, data_world), local_batch);
}

int64_t accumulation_steps(int64_t global_batch, int64_t local_batch, int64_t data_world) {
  int64_t per_round = local_batch * data_world;
  if (global_batch % per_round != 0 || global_batch == 0) {
    int64_t below = global_batch / per_round * per_round;
    std::string nearest = below > 0 ? fmt::format("{} or {}", below, below + per_round) : fmt::format("{}", per_round);
    fail(Fault::kConfig,
         "global_batch_size {} is not a multiple of local_batch_size {} times {} data-parallel ranks = {}; use {}",
         global_batch, local_batch, data_world, per_round, nearest);
  }
  return global_batch / per_round;
}

int64_t steps_per_epoch(int64_t batches, int64_t accumulation) {
  return divide_up(batches, accumulation);
}

int64_t microbatches_in_step(int64_t step, int64_t batches, int64_t accumulation) {
  return std::min(accumulation, batches - step * accumulation);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  const auto& o = options_;
  AM_CHECK(o.local_batch > 0, Fault::kConfig, "dataloader: the batch size must be above 0, but is {}", o.local_batch);
  AM_CHECK(o.data_rank >= 0 && o.data_rank < o.data_world, Fault::kBug, "data rank {} of {}", o.data_rank,
           o.data_world);
  batches_ = data::batches_per_epoch(o.size, o.local_batch, o.data_world, o.drop_last);
  AM_CHECK(batches_ > 0, Fault::kConfig,
           "dataloader: {} samples make no batch of {} on {} data-parallel ranks{}; use fewer ranks or a smaller batch",
           o.size, o.local_batch, o.data_world, o.drop_last ? " with drop_last" : "");
}

std::vector<int64_t> Sampler::samples(int64_t epoch, int64_t batch) {
  if (options_.shuffle && epoch_ != epoch) {
    // Each epoch is a stream of its own.
    uint64_t stream = hash_name("shuffle") + static_cast<uint64_t>(epoch) * 0x9E3779B97F4A7C15u;
    order_ = permutation(options_.size, Random(options_.seed, stream));
    epoch_ = epoch;
  }
  std::vector<int64_t> out;
  for (int64_t i = 0; i < options_.local_batch; ++i) {
    int64_t position = options_.data_world * (batch * options_.local_batch + i) + options_.data_rank;
    if (position >= options_.size) break;
    out.push_back(options_.shuffle ? order_[static_cast<size_t>(position)] : position);
  }
  return out;
}

}  // namespace automodel::data

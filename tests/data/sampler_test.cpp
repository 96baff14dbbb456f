#include "data/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

using Indices = std::vector<int64_t>;

// The samples of each global batch of an epoch: all ranks' microbatches of a step, sorted.
std::vector<Indices> global_batches(SamplerOptions options, int64_t global_batch, int64_t epoch) {
  int64_t accumulation = accumulation_steps(global_batch, options.local_batch, options.data_world);
  std::vector<Indices> steps;
  for (int64_t rank = 0; rank < options.data_world; ++rank) {
    options.data_rank = rank;
    Sampler sampler(options);
    steps.resize(static_cast<size_t>(steps_per_epoch(sampler.batches_per_epoch(), accumulation)));
    for (int64_t k = 0; k < sampler.batches_per_epoch(); ++k) {
      auto samples = sampler.samples(epoch, k);
      CHECK(static_cast<int64_t>(samples.size()) <= options.local_batch);
      auto& step = steps[static_cast<size_t>(k / accumulation)];
      step.insert(step.end(), samples.begin(), samples.end());
    }
  }
  for (auto& step : steps) std::sort(step.begin(), step.end());
  return steps;
}

}  // namespace

TEST_CASE("a global batch holds the same samples on any number of ranks") {
  for (int64_t size : {1, 7, 24, 100, 101, 119}) {
    for (bool shuffle : {false, true}) {
      CAPTURE(size);
      SamplerOptions one{.size = size, .local_batch = 24, .shuffle = shuffle, .seed = 3};
      auto expected = global_batches(one, 24, 2);
      for (int64_t world : {1, 2, 3, 4, 6, 8, 12, 24}) {
        for (int64_t local : {1, 2, 3}) {
          if (24 % (world * local) != 0) continue;
          SamplerOptions options = one;
          options.data_world = world;
          options.local_batch = local;
          CHECK(global_batches(options, 24, 2) == expected);
        }
      }
    }
  }
}

TEST_CASE("an epoch has every sample exactly once") {
  for (int64_t world : {1, 2, 3, 5, 16}) {
    Indices all;
    for (const auto& step :
         global_batches({.size = 37, .local_batch = 2, .data_world = world, .shuffle = true}, 2 * world, 0))
      all.insert(all.end(), step.begin(), step.end());
    std::sort(all.begin(), all.end());
    Indices expected(37);
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(all == expected);
  }
}

TEST_CASE("the order depends on seed and epoch alone") {
  auto order = [](uint64_t seed, int64_t epoch) {
    return Sampler({.size = 100, .local_batch = 100, .shuffle = true, .seed = seed}).samples(epoch, 0);
  };
  CHECK(order(1, 0) == order(1, 0));
  CHECK(order(1, 0) != order(1, 1));
  CHECK(order(1, 0) != order(2, 0));
  Sampler sampler({.size = 100, .local_batch = 100, .shuffle = true, .seed = 1});
  sampler.samples(5, 0);
  CHECK(sampler.samples(1, 0) == order(1, 1));
}

TEST_CASE("without shuffling rank r takes every D-th sample") {
  Sampler sampler({.size = 10, .local_batch = 2, .data_rank = 1, .data_world = 4});
  CHECK(sampler.batches_per_epoch() == 2);
  CHECK(sampler.samples(0, 0) == Indices{1, 5});
  CHECK(sampler.samples(0, 1) == Indices{9});
  Sampler last({.size = 10, .local_batch = 2, .data_rank = 3, .data_world = 4});
  CHECK(last.samples(0, 1).empty());
  Sampler dropping({.size = 10, .local_batch = 2, .data_rank = 1, .data_world = 4, .drop_last = true});
  CHECK(dropping.batches_per_epoch() == 1);
  CHECK(dropping.samples(0, 0) == Indices{1, 5});
}

TEST_CASE("batches and steps of an epoch are counted as the recipe says") {
  CHECK(batches_per_epoch(1000, 4, 4, false) == 63);
  CHECK(batches_per_epoch(1000, 4, 4, true) == 62);
  CHECK(accumulation_steps(64, 4, 4) == 4);
  CHECK(steps_per_epoch(63, 4) == 16);
  CHECK(microbatches_in_step(0, 63, 4) == 4);
  CHECK(microbatches_in_step(15, 63, 4) == 3);
  CHECK(steps_per_epoch(62, 4) == 16);
  CHECK(microbatches_in_step(15, 62, 4) == 2);
}

TEST_CASE("a global batch that does not divide is refused with the nearest ones that do") {
  auto message = error_of(Fault::kConfig, [] { accumulation_steps(48, 4, 8); });
  CHECK(contains(message, "global_batch_size 48"));
  CHECK(contains(message, "4 times 8 data-parallel ranks = 32; use 32 or 64"));
  CHECK(contains(error_of(Fault::kConfig, [] { accumulation_steps(8, 4, 8); }), "use 32"));
}

TEST_CASE("a dataset that is too small for one batch is refused") {
  auto message =
      error_of(Fault::kConfig, [] { Sampler({.size = 7, .local_batch = 2, .data_world = 4, .drop_last = true}); });
  CHECK(contains(message, "7 samples make no batch of 2 on 4"));
  CHECK(contains(error_of(Fault::kConfig, [] { Sampler({.size = 0}); }), "0 samples"));
}

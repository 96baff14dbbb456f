// Which samples a data rank reads, and the arithmetic of batches and steps. Pure functions of sizes and two integers,
// the data rank r and the data world D.
#pragma once

#include <cstdint>
#include <vector>

namespace automodel::data {

struct SamplerOptions {
  int64_t size = 0;         // samples in the dataset
  int64_t local_batch = 1;  // L: samples per microbatch and rank
  int64_t data_rank = 0;    // r
  int64_t data_world = 1;   // D
  bool shuffle = false;
  uint64_t seed = 0;
  bool drop_last = false;  // only whole microbatches on all ranks
};

// An epoch is a permutation of all samples that depends on (seed, epoch) alone. Microbatch k of rank r takes the
// positions D*(k*L + i) + r for i in [0, L), so that the A microbatches of a step on D ranks cover the positions [s*G,
// (s+1)*G) with G = L*D*A: a global batch holds the same samples however many ranks share it. At the end of an epoch
// ranks may have fewer samples than others, or none, in a microbatch that the others have; no sample is left out or
// read twice. With drop_last the samples that do not fill a microbatch on every rank are left out.
class Sampler {
 public:
  // Throws Error(kConfig) when the options contradict, or no batch comes out of them.
  explicit Sampler(const SamplerOptions& options);

  // Microbatches of an epoch: the same number on every rank.
  int64_t batches_per_epoch() const { return batches_; }

  // The samples of microbatch `batch` of `epoch`, at most L. One thread at a time.
  std::vector<int64_t> samples(int64_t epoch, int64_t batch);

 private:
  SamplerOptions options_;
  int64_t batches_ = 0;
  int64_t epoch_ = -1;  // of order_
  std::vector<int64_t> order_;
};

// Microbatches that each rank has in an epoch.
int64_t batches_per_epoch(int64_t size, int64_t local_batch, int64_t data_world, bool drop_last);

// A = G / (L * D): microbatches per optimizer step. Throws Error(kConfig) when it does not divide, naming G, L, D and
// the nearest G that does.
int64_t accumulation_steps(int64_t global_batch, int64_t local_batch, int64_t data_world);

// Optimizer steps of an epoch: the last one may have fewer than A microbatches.
int64_t steps_per_epoch(int64_t batches, int64_t accumulation);

// Microbatches in step `step` of an epoch, 0 <= step < steps_per_epoch().
int64_t microbatches_in_step(int64_t step, int64_t batches, int64_t accumulation);

}  // namespace automodel::data

// Training throughput of known shapes with random weights and tokens: forward, backward and AdamW, no clipping.
#pragma once

#include <cstdint>
#include <string>

#include "comm/world.h"
#include "core/dtype.h"

namespace automodel::train {

struct BenchShape {
  std::string model;  // llama15m, llama110m, gpt2
  DType dtype = DType::kF32;
  int64_t batch = 8;  // rows of the global batch
  int64_t sequence = 256;
  int64_t steps = 10;  // measured, after two that are not
};

struct BenchResult {
  double tokens_per_s = 0;
  double gflops = 0;         // 6 operations per weight of a matrix product and token, 12 L D S for attention
  double share_of_peak = 0;  // of peak_flops on all threads of all ranks, measured beside the steps
  double peak_rss_mb = 0;    // largest of the ranks
  int threads = 1;           // of each rank
};

// Throws Error(kUsage) for an unknown shape or a batch that the ranks cannot share. Collective.
BenchResult bench(const BenchShape& shape, comm::World& world);

// {"model": ..., "dtype": ..., "ranks": ..., "threads": ..., "tokens_per_s": ..., ...}
std::string to_json(const BenchShape& shape, const BenchResult& result, int ranks);
std::string to_text(const BenchShape& shape, const BenchResult& result, int ranks);

}  // namespace automodel::train

// Training throughput of known shapes with random weights and tokens: forward, backward and AdamW, no clipping.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "core/dtype.h"
#include "train/device_choice.h"

namespace automodel::train {

// How the ranks share the work; what the sizes leave of them is data-parallel.
struct BenchMesh {
  std::string strategy = "fsdp2";  // a name of distributed::find_strategy
  int64_t tp = 1, cp = 1, pp = 1;
  bool sequence_parallel = false;       // fsdp2 alone
  std::string schedule = "1F1B";        // with pp: a name of distributed::find_schedule
  std::optional<int64_t> microbatches;  // with pp, of a data-parallel rank's rows; nothing: one a row
  std::vector<int> stage_layers;        // with pp: the layers of each stage, in order; empty: equal numbers
};

struct BenchShape {
  std::string model;  // of bench_models()
  DType dtype = DType::kF32;
  int64_t batch = 8;  // rows of the global batch
  int64_t sequence = 256;
  int64_t steps = 10;  // measured, after two that are not
  bool activation_checkpointing = false;
  BenchMesh mesh = {};
  DeviceChoice device = DeviceChoice::kAuto;
};

struct BenchResult {
  double tokens_per_s = 0;
  double gflops = 0;  // 6 operations per weight of a matrix product and token, 12 L D S for attention
  // Of what all ranks reach, measured beside the steps: registers alone on the CPU, a large matrix product on a device.
  double share_of_peak = 0;
  std::string device;
  double peak_tensor_mb = 0;  // of all tensors at one time, largest of the ranks
  double peak_rss_mb = 0;     // largest of the ranks
  int threads = 1;            // of each rank
};

// Throws Error(kUsage) for an unknown shape or a batch that the ranks cannot share, Error(kConfig) for a mesh that they
// cannot form. Collective.
BenchResult bench(const BenchShape& shape, comm::World& world);

// {"model": ..., "dtype": ..., "ranks": ..., "threads": ..., "mesh": {"strategy": ..., "tp": ..., ...},
// "tokens_per_s": ..., ...}
std::string to_json(const BenchShape& shape, const BenchResult& result, int ranks);
std::string to_text(const BenchShape& shape, const BenchResult& result, int ranks);

}  // namespace automodel::train

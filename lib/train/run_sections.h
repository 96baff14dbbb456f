// Small sections of a recipe that concern the run as a whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/schema.h"
#include "ops/context_attention.h"
#include "train/device_choice.h"

namespace automodel::ops {
void describe(config::Names<ContextMethod>&);
}  // namespace automodel::ops

namespace automodel::train {

// `recipe:` which training procedure; a class name of the reference, with or without its path.
struct RecipeKind {
  std::string target;
};
void describe(config::Fields<RecipeKind>&);

// `rng:` of the reference; only its seed counts, when the recipe has no `seed`.
struct RngConfig {
  std::optional<int64_t> seed;
};
void describe(config::Fields<RngConfig>&);

// `dist_env:`
struct DistEnvConfig {
  double timeout_minutes = 10;  // the longest that ranks wait for each other
  DeviceTransport device_transport = DeviceTransport::kAuto;
};
void describe(config::Fields<DistEnvConfig>&);

// `packed_sequence:` with packing off; the other keys then mean nothing.
struct PackedSequenceConfig {};
void describe(config::Fields<PackedSequenceConfig>&);

// `clip_grad_norm:`
struct ClipGradNormConfig {
  double max_norm = 1.0;  // 0 or less: no clipping
};
void describe(config::Fields<ClipGradNormConfig>&);

// `mfu:` what the utilisation of the machine is measured against.
struct MfuConfig {
  std::optional<std::string> device;
  std::optional<double> peak_tflops;  // of one rank's device
};
void describe(config::Fields<MfuConfig>&);

// `launch:` how many ranks a run gets when the command line does not say.
struct LaunchConfig {
  std::optional<int64_t> nproc_per_node;
};
void describe(config::Fields<LaunchConfig>&);

// `context_parallel:` how ranks that share a sequence (distributed.cp_size) exchange keys and values.
struct ContextParallelConfig {
  ops::ContextMethod method = ops::ContextMethod::kAllGather;
};
void describe(config::Fields<ContextParallelConfig>&);

// `sample:` a text that the model continues when training is over.
struct SampleConfig {
  std::string prompt;
  int64_t max_new_tokens = 64;
  double temperature = 1.0;  // 0: the most likely token each time
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
};
void describe(config::Fields<SampleConfig>&);

}  // namespace automodel::train

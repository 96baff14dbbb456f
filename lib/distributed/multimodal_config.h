// How fsdp2 treats the vision and audio towers of a multimodal model.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/schema.h"

namespace automodel::distributed {

// Vision towers whose images or frames are spread over the context-parallel ranks, by cuts of equal cost.
struct CpVisionFrameShardingConfig {
  bool enabled = false;
  std::vector<std::string> mesh_dims = {"cp"};  // nothing else is possible
  int64_t min_tokens = 2048;                    // below any of these a step is not spread
  int64_t min_frames = 32;
  int64_t min_local_patch_rows = 96;
  // An image of p patches costs p * (p + alpha); "auto": 3 * the tower's hidden size.
  std::optional<std::variant<int64_t, std::string>> cost_alpha = "auto";
};
void describe(config::Fields<CpVisionFrameShardingConfig>&);

struct MultimodalVisionConfig {
  CpVisionFrameShardingConfig frame_sharding = {};
};
void describe(config::Fields<MultimodalVisionConfig>&);

// Who owns a tower without any trainable weight.
enum class FrozenSharding { kRoot, kPerLayer, kReplicate };
void describe(config::Names<FrozenSharding>&);

struct MultimodalDistributedConfig {
  FrozenSharding frozen_sharding = FrozenSharding::kRoot;
  MultimodalVisionConfig vision = {};
};
void describe(config::Fields<MultimodalDistributedConfig>&);

}  // namespace automodel::distributed

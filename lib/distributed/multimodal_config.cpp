#include "distributed/multimodal_config.h"

#include "distributed/offload_policy.h"

namespace automodel::distributed {

void describe(config::Fields<OffloadPolicy>& f) {
  f.doc("Weights, gradients and optimizer state live in host memory.");
  f.target({"torch.distributed.fsdp.CPUOffloadPolicy"});
  f.target({"torch.distributed.fsdp.OffloadPolicy"}, [](OffloadPolicy& policy) { policy.to_cpu = false; });
  f("pin_memory", &OffloadPolicy::pin_memory, "Page-locked memory.");
}

void describe(config::Fields<CpVisionFrameShardingConfig>& f) {
  using C = CpVisionFrameShardingConfig;
  f.doc("Frames of a vision tower spread over the context-parallel ranks.");
  f("enabled", &C::enabled, "Whether to spread them.");
  f("mesh_dims", &C::mesh_dims, "The axes to spread them over.")
      .must([](const auto& dims) { return dims == std::vector<std::string>{"cp"}; }, "must be [cp]");
  f("min_tokens", &C::min_tokens, "Fewest tokens of a step that is spread.").at_least(0);
  f("min_frames", &C::min_frames, "Fewest frames of a step that is spread.").at_least(0);
  f("min_local_patch_rows", &C::min_local_patch_rows, "Fewest rows of patches on a rank.").at_least(0);
  f("cost_alpha", &C::cost_alpha, "Weight of the linear cost of an image; auto: 3 * the tower's hidden size.")
      .must(
          [](const auto& alpha) {
            if (!alpha) return true;
            const auto* number = std::get_if<int64_t>(&*alpha);
            return number ? *number >= 0 : std::get<std::string>(*alpha) == "auto";
          },
          "must be auto, null or a number of at least 0");
}

void describe(config::Fields<MultimodalVisionConfig>& f) {
  f.doc("The vision tower.");
  f("frame_sharding", &MultimodalVisionConfig::frame_sharding, "Spreading its frames over ranks.");
}

void describe(config::Names<FrozenSharding>& n) {
  n("root", FrozenSharding::kRoot, "the outermost unit");
  n("per_layer", FrozenSharding::kPerLayer, "units of their own, as trainable layers");
  n("per-layer", FrozenSharding::kPerLayer);
  n("replicate", FrozenSharding::kReplicate, "a full copy on every rank");
  n.ignore_case();
}

void describe(config::Fields<MultimodalDistributedConfig>& f) {
  f.doc("Vision and audio towers.");
  f("frozen_sharding", &MultimodalDistributedConfig::frozen_sharding, "Who owns towers without trainable weights.");
  f("vision", &MultimodalDistributedConfig::vision, "The vision tower.");
}

}  // namespace automodel::distributed

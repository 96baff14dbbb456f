#include "parallel/job_groups.h"

namespace automodel::parallel {

JobGroups::JobGroups(const distributed::MeshContext& mesh, comm::Communicator& world, const SharingOptions& options)
    : world_(world) {
  if (!mesh.device_mesh()) {
    groups_.data = batch_ = &world;
    return;
  }
  made_ = std::make_unique<comm::MeshGroups>(*mesh.device_mesh(), world);
  batch_ = &made_->along({"dp"});
  groups_.data = &made_->along({mesh.loss_axis()});
  if (mesh.tp_size() > 1) groups_.model.tp = &made_->along({"tp"});
  if (mesh.cp_size() > 1) groups_.model.cp = &made_->along({"cp"});
  if (mesh.pp_size() > 1) groups_.pp = &made_->along({"pp"});
  if (mesh.moe_mesh()) {
    experts_made_ = std::make_unique<comm::MeshGroups>(*mesh.moe_mesh(), world);
    groups_.model.ep = &experts_made_->along({"ep"});
    groups_.experts = &experts_made_->along({"ep_shard"});
  }
  groups_.model.sequence_parallel = options.sequence_parallel && mesh.tp_size() > 1;
  groups_.model.overlaps_rows = groups_.model.sequence_parallel && options.async_tensor_parallel;
  groups_.model.context_method = options.context_method;
}

SharingOptions sharing_of(const distributed::StrategyConfig& strategy, ops::ContextMethod method) {
  const auto* fsdp2 = std::get_if<distributed::FSDP2Config>(&strategy);
  if (fsdp2 == nullptr) return {.context_method = method};
  return {fsdp2->sequence_parallel, fsdp2->enable_async_tensor_parallel, method};
}

}  // namespace automodel::parallel

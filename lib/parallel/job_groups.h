// The communicators of one rank, made from the mesh of its job.
#pragma once

#include <memory>

#include "distributed/mesh_context.h"
#include "distributed/strategy.h"
#include "parallel/groups.h"

namespace automodel::parallel {

// How ranks work together beyond what the mesh says.
struct SharingOptions {
  // Of the strategy (fsdp2); they act with several tp ranks only, the second with the first only.
  bool sequence_parallel = false;
  bool async_tensor_parallel = false;
  ops::ContextMethod context_method = ops::ContextMethod::kAllGather;
};

class JobGroups {
 public:
  // `world`: all ranks of the job, this one being in the mesh, if there is one; it outlives this object. Collective.
  JobGroups(const distributed::MeshContext& mesh, comm::Communicator& world, const SharingOptions& options = {});

  const Groups& all() const { return groups_; }
  comm::Communicator& world() const { return world_; }
  // The ranks that share a global batch: each has samples of its own.
  comm::Communicator& batch() const { return *batch_; }

 private:
  comm::Communicator& world_;
  std::unique_ptr<comm::MeshGroups> made_, experts_made_;  // with a mesh
  Groups groups_;
  comm::Communicator* batch_ = nullptr;
};

SharingOptions sharing_of(const distributed::StrategyConfig& strategy, ops::ContextMethod method);

}  // namespace automodel::parallel

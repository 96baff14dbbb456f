// The mesh of a job and what is asked of it. All sizes, coordinates and groups of a job come from here.
//
// fsdp2: (pp, dp_replicate, dp_shard, cp, tp), with the derived axes dp, dp_shard_cp and dp_cp; megatron_fsdp: (dp, cp,
// tp), with dp_cp when cp is above 1; ddp: no mesh, every rank is one of the data-parallel ranks. With expert
// parallelism the ranks of each pipeline stage, in their order, are laid out once more as (ep_shard, ep).
// Arithmetic only: any rank of any job, alive or planned.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/mesh.h"
#include "config/report.h"
#include "distributed/parallelism_sizes.h"
#include "distributed/strategy.h"

namespace automodel::distributed {

// Every legal name of an axis.
const std::vector<std::string>& axis_names();

class MeshContext {
 public:
  // No mesh: ddp, or a single rank without a set-up.
  MeshContext() = default;
  explicit MeshContext(int64_t world_size) : world_size_(world_size) {}
  // `moe_mesh` has the axes pp, ep_shard and ep. Error(kConfig): an axis has a name outside axis_names().
  explicit MeshContext(comm::DeviceMesh mesh, std::optional<comm::DeviceMesh> moe_mesh = std::nullopt);

  const std::optional<comm::DeviceMesh>& device_mesh() const { return mesh_; }
  // The experts' mesh of the whole job, (pp, ep_shard, ep); nothing without expert parallelism.
  const std::optional<comm::DeviceMesh>& moe_mesh() const { return moe_mesh_; }
  // The part of it that one stage has: (ep_shard, ep). 0 <= stage < pp_size().
  comm::DeviceMesh moe_mesh_of_stage(int stage) const;

  // Ranks of the mesh; without one, of the job.
  int64_t world_size() const { return world_size_; }
  int pp_size() const { return size("pp").value_or(1); }
  int tp_size() const { return size("tp").value_or(1); }
  int cp_size() const { return size("cp").value_or(1); }
  int ep_size() const { return size("ep").value_or(1); }
  int dp_shard_size() const { return size("dp_shard").value_or(1); }
  std::optional<int> dp_size() const { return size("dp"); }
  std::optional<int> dp_replicate_size() const { return size("dp_replicate"); }
  bool pp_enabled() const { return pp_size() > 1; }
  // Nothing when no mesh has the axis.
  std::optional<int> size(std::string_view axis) const;

  // Every axis that the meshes have: native, derived, experts'.
  std::vector<std::string> axes() const;
  // The groups of an axis, over the whole job, and the one of a rank; the rank's place in it. Error(kBug) when no mesh
  // has the axis; it names those that exist.
  std::vector<std::vector<int>> groups(std::string_view axis) const {
    return mesh_of(axis).groups({std::string(axis)});
  }
  std::vector<int> group(int rank, std::string_view axis) const {
    return mesh_of(axis).group(rank, {std::string(axis)});
  }
  int index(int rank, std::string_view axis) const { return mesh_of(axis).index(rank, {std::string(axis)}); }

  // Data parallelism as the loader sees it: without a mesh every rank counts.
  int64_t data_ranks() const { return mesh_ ? dp_size().value_or(1) : world_size_; }
  int64_t data_rank(int rank) const { return mesh_ ? index(rank, "dp") : rank; }

  // The axes that shard weights and reduce their gradients: one, or replicas outside and shards inside. Empty without a
  // mesh.
  comm::Axes fsdp_axes() const;
  // The axis over which losses are summed: dp_cp with context parallelism, else dp.
  const char* loss_axis() const { return cp_size() > 1 ? "dp_cp" : "dp"; }

  // "pp 0, dp_shard 1, tp 1"; axes of size 1 are left out.
  std::string describe(int rank) const;

 private:
  const comm::DeviceMesh& mesh_of(std::string_view axis) const;

  std::optional<comm::DeviceMesh> mesh_, moe_mesh_;
  int64_t world_size_ = 1;
};

// What one rank sees: its coordinates and its groups.
struct RankView {
  int rank = 0;
  int stage = 0;
  std::vector<std::pair<std::string, int>> coordinates;          // of every axis, derived and experts' ones too
  std::vector<std::pair<std::string, std::vector<int>>> groups;  // the rank's own
};
// `rank` is in the mesh.
RankView view_of(const MeshContext& context, int rank);

struct MeshRequest {
  Strategy strategy = Strategy::kFsdp2;
  ParallelismSizes sizes;
  int64_t world_size = 1;  // ranks of the mesh: of the job, or of `ranks`
  std::vector<int> ranks;  // the part of the job that the mesh takes, in the order of its coordinates; empty: all of it
  std::optional<int64_t> job_size = std::nullopt;  // ranks of the job when it is known apart from world_size
};
// Lays out the mesh. Every rule that the request breaks becomes a problem at the key of a size ("tp_size"), with the
// arithmetic and the nearest values that would do; then nothing is returned.
std::optional<MeshContext> build_mesh(const MeshRequest& request, config::Problems& problems);

// The cp ranks as (ring, ulysses). Error(kConfig) unless the two sizes multiply to cp_size.
comm::DeviceMesh ring_ulysses_mesh(const MeshContext& context, int rank, int ring, int ulysses);

}  // namespace automodel::distributed

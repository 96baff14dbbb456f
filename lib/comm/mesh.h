// A mesh of ranks over named axes, as pure arithmetic: row-major, last axis fastest. Works for any rank of any world,
// alive or planned. "Axis" is the mesh's word; tensors have dims.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace automodel::comm {

struct MeshAxis {
  std::string name;
  int size = 1;
  bool operator==(const MeshAxis&) const = default;
};

// Some axes of a mesh, by name: native ones, or derived ones that stand for several. Flattened in the order of the
// list, the last one fastest.
using Axes = std::vector<std::string>;

class DeviceMesh {
 public:
  // A mesh of the ranks 0..product-1.
  explicit DeviceMesh(std::vector<MeshAxis> axes);
  // A mesh of the given ranks; their order gives the coordinates (a subset of a job, or a permutation).
  // Error(kConfig): a size below 1, a repeated axis, a repeated rank, or a number of ranks that is not the product.
  DeviceMesh(std::vector<MeshAxis> axes, std::vector<int> ranks);

  // Names the flattening of native axes: after flatten("dp", {"dp_replicate", "dp_shard"}), "dp" is a derived axis of
  // this mesh. Error(kConfig): the name is taken, or a source axis is missing.
  void flatten(std::string name, Axes sources);

  const std::vector<MeshAxis>& axes() const { return axes_; }
  const std::vector<std::pair<std::string, Axes>>& derived() const { return derived_; }
  const std::vector<int>& ranks() const { return ranks_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  bool has_axis(std::string_view name) const;  // native or derived
  // Product of the sizes; an unknown axis is Error(kBug) that names those that exist, here and below.
  int size(const Axes& axes) const;
  bool contains(int rank) const;

  // One coordinate per axis; a rank outside the mesh is Error(kBug), here and below.
  std::vector<int> coordinates(int rank) const;
  int rank_at(std::span<const int> coordinates) const;
  // Coordinate of a rank along the flattened axes: 0..size(axes)-1.
  int index(int rank, const Axes& axes) const;

  // The ranks that share every other coordinate with `rank`, ordered by index(., axes).
  std::vector<int> group(int rank, const Axes& axes) const;
  // All groups of the flattened axes; they partition the mesh. Ordered by the remaining coordinates, row-major.
  std::vector<std::vector<int>> groups(const Axes& axes) const;
  // The mesh of the ranks that share every other coordinate with `rank`, with one axis per entry: a derived axis
  // becomes a native one of that name.
  DeviceMesh submesh(int rank, const Axes& axes) const;

  // "pp 0, dp_shard 1, tp 1"; axes of size 1 are left out; "" for a mesh of one rank.
  std::string describe(int rank) const;

 private:
  // Numbers of the native axes that the names stand for, in order.
  std::vector<size_t> natives(const Axes& names) const;
  int position_of(int rank) const;
  int coordinate(int position, size_t axis) const { return position / strides_[axis] % axes_[axis].size; }

  std::vector<MeshAxis> axes_;
  std::vector<std::pair<std::string, Axes>> derived_;
  std::vector<int> strides_;
  std::vector<int> ranks_;
  std::unordered_map<int, int> position_;  // empty when the ranks are 0..n-1 in order
};

// The live communicators of one rank of a mesh, made on first use and kept. `world` outlives this object. The members
// of a group ask for it in the same order as for their other groups; all ranks do, where the mesh has all of `world`.
class MeshGroups {
 public:
  MeshGroups(DeviceMesh mesh, Communicator& world);

  const DeviceMesh& mesh() const { return mesh_; }
  // The communicator along the flattened axes, named `label` or the axis names joined by '_'. The calling rank is in
  // the mesh. The reference stays valid as long as this object.
  Communicator& along(const Axes& axes, std::string label = "");

 private:
  DeviceMesh mesh_;
  Communicator& world_;
  std::map<Axes, std::unique_ptr<Communicator>> made_;
};

}  // namespace automodel::comm

#include "comm/mesh.h"

#include <numeric>
#include <set>

#include "core/error.h"

namespace automodel::comm {
namespace {

int product(const std::vector<MeshAxis>& axes) {
  int64_t n = 1;
  for (const MeshAxis& axis : axes) {
    AM_CHECK(axis.size >= 1, Fault::kConfig, "mesh: axis '{}' has size {}; sizes start at 1", axis.name, axis.size);
    n *= axis.size;
    AM_CHECK(n <= (int64_t{1} << 30), Fault::kConfig, "mesh: more than 2^30 ranks");
  }
  return static_cast<int>(n);
}

std::vector<int> first_ranks(int n) {
  std::vector<int> ranks(static_cast<size_t>(n));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

std::string joined(const Axes& axes) {
  std::string text;
  for (const std::string& name : axes) text += (text.empty() ? "" : "_") + name;
  return text;
}

}  // namespace

DeviceMesh::DeviceMesh(std::vector<MeshAxis> axes) : DeviceMesh(axes, first_ranks(product(axes))) {}

DeviceMesh::DeviceMesh(std::vector<MeshAxis> axes, std::vector<int> ranks)
    : axes_(std::move(axes)), strides_(axes_.size()), ranks_(std::move(ranks)) {
  std::set<std::string> names;
  for (const MeshAxis& axis : axes_) {
    AM_CHECK(names.insert(axis.name).second, Fault::kConfig, "mesh: axis '{}' appears twice", axis.name);
  }
  const int n = product(axes_);
  AM_CHECK(size() == n, Fault::kConfig, "mesh: the axis sizes multiply to {}, but there are {} ranks", n, size());
  int stride = 1;
  for (size_t a = axes_.size(); a-- > 0; stride *= axes_[a].size) strides_[a] = stride;
  for (int i = 0; i < n; ++i) {
    const int rank = ranks_[static_cast<size_t>(i)];
    AM_CHECK(position_.emplace(rank, i).second, Fault::kConfig, "mesh: rank {} appears twice", rank);
  }
}

bool DeviceMesh::has_axis(std::string_view name) const {
  for (const MeshAxis& axis : axes_) {
    if (axis.name == name) return true;
  }
  return false;
}

size_t DeviceMesh::axis_number(std::string_view name) const {
  for (size_t a = 0; a < axes_.size(); ++a) {
    if (axes_[a].name == name) return a;
  }
  fail(Fault::kBug, "mesh: there is no axis '{}'", name);
}

int DeviceMesh::position_of(int rank) const {
  const auto found = position_.find(rank);
  AM_CHECK(found != position_.end(), Fault::kBug, "mesh: rank {} is not in it", rank);
  return found->second;
}

int DeviceMesh::size(const Axes& axes) const {
  int n = 1;
  for (const std::string& name : axes) n *= axes_[axis_number(name)].size;
  return n;
}

std::vector<int> DeviceMesh::coordinates(int rank) const {
  const int position = position_of(rank);
  std::vector<int> result;
  for (size_t a = 0; a < axes_.size(); ++a) result.push_back(coordinate(position, a));
  return result;
}

int DeviceMesh::rank_at(std::span<const int> coordinates) const {
  AM_CHECK(coordinates.size() == axes_.size(), Fault::kBug, "mesh: {} coordinates for {} axes", coordinates.size(),
           axes_.size());
  int position = 0;
  for (size_t a = 0; a < axes_.size(); ++a) {
    AM_CHECK(coordinates[a] >= 0 && coordinates[a] < axes_[a].size, Fault::kBug,
             "mesh: coordinate {} is outside axis '{}' of size {}", coordinates[a], axes_[a].name, axes_[a].size);
    position += coordinates[a] * strides_[a];
  }
  return ranks_[static_cast<size_t>(position)];
}

int DeviceMesh::index(int rank, const Axes& axes) const {
  const int position = position_of(rank);
  int index = 0;
  for (const std::string& name : axes) {
    const size_t a = axis_number(name);
    index = index * axes_[a].size + coordinate(position, a);
  }
  return index;
}

std::vector<int> DeviceMesh::group(int rank, const Axes& axes) const {
  // Positions of the group: the rank's own with the flattened axes at 0, plus every offset along them.
  int base = position_of(rank);
  std::vector<int> offsets{0};
  for (const std::string& name : axes) {
    const size_t a = axis_number(name);
    base -= coordinate(base, a) * strides_[a];
    std::vector<int> longer;
    for (int offset : offsets) {
      for (int c = 0; c < axes_[a].size; ++c) longer.push_back(offset + c * strides_[a]);
    }
    offsets = std::move(longer);
  }
  for (int& offset : offsets) offset = ranks_[static_cast<size_t>(base + offset)];
  return offsets;
}

std::vector<std::vector<int>> DeviceMesh::groups(const Axes& axes) const {
  std::vector<std::vector<int>> result;
  for (int rank : ranks_) {  // ranks_ is in row-major order, so the first member of each group comes in the right order
    if (index(rank, axes) == 0) result.push_back(group(rank, axes));
  }
  return result;
}

std::string DeviceMesh::describe(int rank) const {
  const int position = position_of(rank);
  std::string text;
  for (size_t a = 0; a < axes_.size(); ++a) {
    if (axes_[a].size == 1) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", axes_[a].name, coordinate(position, a));
  }
  return text;
}

MeshGroups::MeshGroups(DeviceMesh mesh, Communicator& world) : mesh_(std::move(mesh)), world_(world) {}

Communicator& MeshGroups::along(const Axes& axes, std::string label) {
  std::unique_ptr<Communicator>& slot = made_[axes];
  if (!slot) {
    if (label.empty()) label = joined(axes);
    slot = world_.group(mesh_.group(world_.rank(), axes), std::move(label));
  }
  return *slot;
}

}  // namespace automodel::comm

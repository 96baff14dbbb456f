#include "comm/mesh.h"

#include <fmt/format.h>

#include <algorithm>
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
  bool in_order = true;
  for (int i = 0; i < n && in_order; ++i) in_order = ranks_[static_cast<size_t>(i)] == i;
  if (in_order) return;
  position_.reserve(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    const int rank = ranks_[static_cast<size_t>(i)];
    AM_CHECK(position_.emplace(rank, i).second, Fault::kConfig, "mesh: rank {} appears twice", rank);
  }
}

void DeviceMesh::flatten(std::string name, Axes sources) {
  AM_CHECK(!has_axis(name), Fault::kConfig, "mesh: axis '{}' exists already", name);
  for (const std::string& source : sources) {
    const bool native = std::any_of(axes_.begin(), axes_.end(), [&](const MeshAxis& a) { return a.name == source; });
    AM_CHECK(native, Fault::kConfig, "mesh: there is no axis '{}' to flatten into '{}'", source, name);
  }
  derived_.emplace_back(std::move(name), std::move(sources));
}

bool DeviceMesh::has_axis(std::string_view name) const {
  return std::any_of(axes_.begin(), axes_.end(), [&](const MeshAxis& axis) { return axis.name == name; }) ||
         std::any_of(derived_.begin(), derived_.end(), [&](const auto& axis) { return axis.first == name; });
}

std::vector<size_t> DeviceMesh::natives(const Axes& names) const {
  std::vector<size_t> numbers;
  const auto add = [&](std::string_view name) {
    for (size_t a = 0; a < axes_.size(); ++a) {
      if (axes_[a].name == name) return numbers.push_back(a), true;
    }
    return false;
  };
  for (const std::string& name : names) {
    if (add(name)) continue;
    const auto found =
        std::find_if(derived_.begin(), derived_.end(), [&](const auto& axis) { return axis.first == name; });
    if (found == derived_.end()) {
      Axes known;
      for (const MeshAxis& axis : axes_) known.push_back(axis.name);
      for (const auto& [derived, sources] : derived_) known.push_back(derived);
      fail(Fault::kBug, "mesh: there is no axis '{}'; the axes are {}", name, fmt::join(known, ", "));
    }
    for (const std::string& source : found->second) add(source);
  }
  return numbers;
}

bool DeviceMesh::contains(int rank) const {
  return position_.empty() ? rank >= 0 && rank < size() : position_.contains(rank);
}

int DeviceMesh::position_of(int rank) const {
  AM_CHECK(contains(rank), Fault::kBug, "mesh: rank {} is not in it", rank);
  return position_.empty() ? rank : position_.at(rank);
}

int DeviceMesh::size(const Axes& axes) const {
  int n = 1;
  for (size_t a : natives(axes)) n *= axes_[a].size;
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
  for (size_t a : natives(axes)) index = index * axes_[a].size + coordinate(position, a);
  return index;
}

std::vector<int> DeviceMesh::group(int rank, const Axes& axes) const {
  // Positions of the group: the rank's own with the flattened axes at 0, plus every offset along them.
  const int position = position_of(rank);
  int base = position;
  std::vector<int> offsets{0};
  for (size_t a : natives(axes)) {
    base -= coordinate(position, a) * strides_[a];
    std::vector<int> longer;
    longer.reserve(offsets.size() * static_cast<size_t>(axes_[a].size));
    for (int offset : offsets) {
      for (int c = 0; c < axes_[a].size; ++c) longer.push_back(offset + c * strides_[a]);
    }
    offsets = std::move(longer);
  }
  for (int& offset : offsets) offset = ranks_[static_cast<size_t>(base + offset)];
  return offsets;
}

std::vector<std::vector<int>> DeviceMesh::groups(const Axes& axes) const {
  const std::vector<size_t> along = natives(axes);
  std::vector<std::vector<int>> result;
  result.reserve(ranks_.size() / static_cast<size_t>(size(axes)));
  for (int i = 0; i < size(); ++i) {  // the first member of each group comes in row-major order
    const bool first = std::all_of(along.begin(), along.end(), [&](size_t a) { return coordinate(i, a) == 0; });
    if (first) result.push_back(group(ranks_[static_cast<size_t>(i)], axes));
  }
  return result;
}

DeviceMesh DeviceMesh::submesh(int rank, const Axes& axes) const {
  std::vector<MeshAxis> part;
  for (const std::string& name : axes) part.push_back({name, size({name})});
  return DeviceMesh(std::move(part), group(rank, axes));
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
    const std::vector<int> members = mesh_.group(world_.rank(), axes);
    const bool all = static_cast<int>(mesh_.ranks().size()) == world_.size();
    slot = all ? world_.partition(members, std::move(label)) : world_.group(members, std::move(label));
  }
  return *slot;
}

}  // namespace automodel::comm

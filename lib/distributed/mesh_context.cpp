#include "distributed/mesh_context.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace automodel::distributed {

const std::vector<std::string>& axis_names() {
  static const std::vector<std::string> names{"pp", "dp_replicate", "dp_shard", "cp",       "tp",
                                              "dp", "dp_shard_cp",  "dp_cp",    "ep_shard", "ep"};
  return names;
}

namespace {

void check_names(const comm::DeviceMesh& mesh) {
  const auto check = [](const std::string& name) {
    const auto& known = axis_names();
    AM_CHECK(std::find(known.begin(), known.end(), name) != known.end(), Fault::kConfig,
             "mesh: '{}' is no name of an axis; the names are {}", name, fmt::join(known, ", "));
  };
  for (const comm::MeshAxis& axis : mesh.axes()) check(axis.name);
  for (const auto& [name, sources] : mesh.derived()) check(name);
}

void add_axes(const comm::DeviceMesh& mesh, std::vector<std::string>& names) {
  const auto add = [&](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const comm::MeshAxis& axis : mesh.axes()) add(axis.name);
  for (const auto& [name, sources] : mesh.derived()) add(name);
}

}  // namespace

MeshContext::MeshContext(comm::DeviceMesh mesh, std::optional<comm::DeviceMesh> moe_mesh)
    : mesh_(std::move(mesh)), moe_mesh_(std::move(moe_mesh)), world_size_(mesh_->size()) {
  check_names(*mesh_);
  if (moe_mesh_) check_names(*moe_mesh_);
}

comm::DeviceMesh MeshContext::moe_mesh_of_stage(int stage) const {
  AM_CHECK(moe_mesh_.has_value(), Fault::kBug, "mesh: there is no expert parallelism");
  const int first = moe_mesh_->rank_at(std::vector<int>{stage, 0, 0});
  return moe_mesh_->submesh(first, {"ep_shard", "ep"});
}

std::optional<int> MeshContext::size(std::string_view axis) const {
  const std::string name(axis);
  if (mesh_ && mesh_->has_axis(axis)) return mesh_->size({name});
  if (moe_mesh_ && moe_mesh_->has_axis(axis)) return moe_mesh_->size({name});
  return std::nullopt;
}

std::vector<std::string> MeshContext::axes() const {
  std::vector<std::string> names;
  if (mesh_) add_axes(*mesh_, names);
  if (moe_mesh_) add_axes(*moe_mesh_, names);
  return names;
}

const comm::DeviceMesh& MeshContext::mesh_of(std::string_view axis) const {
  if (mesh_ && mesh_->has_axis(axis)) return *mesh_;
  if (moe_mesh_ && moe_mesh_->has_axis(axis)) return *moe_mesh_;
  fail(Fault::kBug, "mesh: there is no axis '{}'; the axes are: {}", axis, fmt::join(axes(), ", "));
}

comm::Axes MeshContext::fsdp_axes() const {
  if (!mesh_) return {};
  if (!mesh_->has_axis("dp_shard")) return {mesh_->has_axis("dp_cp") ? "dp_cp" : "dp"};
  comm::Axes axes;
  if (dp_replicate_size().value_or(1) > 1) axes.push_back("dp_replicate");
  axes.push_back(cp_size() > 1 ? "dp_shard_cp" : "dp_shard");
  return axes;
}

std::string MeshContext::describe(int rank) const {
  if (mesh_) return mesh_->describe(rank);
  return world_size_ > 1 ? fmt::format("dp {}", rank) : "";
}

RankView view_of(const MeshContext& context, int rank) {
  RankView view;
  view.rank = rank;
  for (const std::string& axis : context.axes()) {
    view.coordinates.emplace_back(axis, context.index(rank, axis));
    view.groups.emplace_back(axis, context.group(rank, axis));
    if (axis == "pp") view.stage = view.coordinates.back().second;
  }
  return view;
}

comm::DeviceMesh ring_ulysses_mesh(const MeshContext& context, int rank, int ring, int ulysses) {
  AM_CHECK(ring >= 1 && ulysses >= 1 && int64_t{ring} * ulysses == context.cp_size(), Fault::kConfig,
           "ring {} * ulysses {} must equal cp_size {}", ring, ulysses, context.cp_size());
  std::vector<int> ranks = context.device_mesh() ? context.group(rank, "cp") : std::vector<int>{rank};
  return comm::DeviceMesh({{"ring", ring}, {"ulysses", ulysses}}, std::move(ranks));
}

}  // namespace automodel::distributed

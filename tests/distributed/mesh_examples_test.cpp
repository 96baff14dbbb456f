// Worked meshes: shape, every group, every coordinate.
#include <algorithm>
#include <map>
#include <numeric>

#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;

namespace {

using Groups = std::vector<std::vector<int>>;

// "{0,4}{1,5}" as groups; "" is none.
Groups groups_of(const std::string& text) {
  Groups groups;
  int number = -1;
  for (char c : text) {
    if (c == '{') groups.emplace_back();
    if (c >= '0' && c <= '9') number = std::max(number, 0) * 10 + (c - '0');
    if ((c == ',' || c == '}') && number >= 0) {
      groups.back().push_back(number);
      number = -1;
    }
  }
  return groups;
}

struct Example {
  const char* name;
  int64_t world;
  const char* section;
  std::vector<int> shape;                                                // of the native axes
  std::vector<std::pair<std::vector<std::string>, std::string>> groups;  // axes that have these
  std::vector<int> ranks = {};
};

const std::vector<Example>& examples() {
  static const std::vector<Example> all = {
      {"X1", 8, "{}", {1, 1, 8, 1, 1}, {{{"dp_shard", "dp", "dp_shard_cp", "dp_cp"}, "{0,1,2,3,4,5,6,7}"}}},
      {"X2",
       8,
       "{dp_replicate_size: 2}",
       {1, 2, 4, 1, 1},
       {{{"dp_replicate"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"dp_shard", "dp_shard_cp"}, "{0,1,2,3}{4,5,6,7}"},
        {{"dp", "dp_cp"}, "{0,1,2,3,4,5,6,7}"}}},
      {"X3",
       8,
       "{tp_size: 2}",
       {1, 1, 4, 1, 2},
       {{{"tp"}, "{0,1}{2,3}{4,5}{6,7}"}, {{"dp_shard", "dp", "dp_shard_cp", "dp_cp"}, "{0,2,4,6}{1,3,5,7}"}}},
      {"X4",
       8,
       "{cp_size: 2}",
       {1, 1, 4, 2, 1},
       {{{"cp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"dp_shard", "dp"}, "{0,2,4,6}{1,3,5,7}"},
        {{"dp_shard_cp", "dp_cp"}, "{0,1,2,3,4,5,6,7}"}}},
      {"X5",
       8,
       "{cp_size: 2, tp_size: 2}",
       {1, 1, 2, 2, 2},
       {{{"tp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"cp"}, "{0,2}{1,3}{4,6}{5,7}"},
        {{"dp_shard", "dp"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"dp_shard_cp", "dp_cp"}, "{0,2,4,6}{1,3,5,7}"}}},
      {"X6",
       8,
       "{pp_size: 2, pipeline: {}}",
       {2, 1, 4, 1, 1},
       {{{"pp"}, "{0,4}{1,5}{2,6}{3,7}"}, {{"dp_shard", "dp", "dp_shard_cp", "dp_cp"}, "{0,1,2,3}{4,5,6,7}"}}},
      {"X7",
       8,
       "{pp_size: 2, cp_size: 2, tp_size: 2, pipeline: {}}",
       {2, 1, 1, 2, 2},
       {{{"pp"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"tp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"cp", "dp_shard_cp", "dp_cp"}, "{0,2}{1,3}{4,6}{5,7}"},
        {{"dp"}, "{0}{1}{2}{3}{4}{5}{6}{7}"}}},
      {"X8",
       16,
       "{dp_replicate_size: 2, cp_size: 2, tp_size: 2}",
       {1, 2, 2, 2, 2},
       {{{"tp"}, "{0,1}{2,3}{4,5}{6,7}{8,9}{10,11}{12,13}{14,15}"},
        {{"cp"}, "{0,2}{1,3}{4,6}{5,7}{8,10}{9,11}{12,14}{13,15}"},
        {{"dp_shard"}, "{0,4}{1,5}{2,6}{3,7}{8,12}{9,13}{10,14}{11,15}"},
        {{"dp_replicate"}, "{0,8}{1,9}{2,10}{3,11}{4,12}{5,13}{6,14}{7,15}"},
        {{"dp"}, "{0,4,8,12}{1,5,9,13}{2,6,10,14}{3,7,11,15}"},
        {{"dp_shard_cp"}, "{0,2,4,6}{1,3,5,7}{8,10,12,14}{9,11,13,15}"},
        {{"dp_cp"}, "{0,2,4,6,8,10,12,14}{1,3,5,7,9,11,13,15}"}}},
      {"X9",
       16,
       "{pp_size: 2, dp_replicate_size: 2, tp_size: 2, pipeline: {}}",
       {2, 2, 2, 1, 2},
       {{{"pp"}, "{0,8}{1,9}{2,10}{3,11}{4,12}{5,13}{6,14}{7,15}"},
        {{"dp_replicate"}, "{0,4}{1,5}{2,6}{3,7}{8,12}{9,13}{10,14}{11,15}"},
        {{"dp_shard", "dp_shard_cp"}, "{0,2}{1,3}{4,6}{5,7}{8,10}{9,11}{12,14}{13,15}"},
        {{"dp", "dp_cp"}, "{0,2,4,6}{1,3,5,7}{8,10,12,14}{9,11,13,15}"},
        {{"tp"}, "{0,1}{2,3}{4,5}{6,7}{8,9}{10,11}{12,13}{14,15}"}}},
      {"X10",
       8,
       "{ep_size: 4}",
       {1, 1, 8, 1, 1},
       {{{"ep"}, "{0,1,2,3}{4,5,6,7}"},
        {{"ep_shard"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"dp", "dp_shard", "dp_cp", "dp_shard_cp"}, "{0,1,2,3,4,5,6,7}"}}},
      {"X11",
       8,
       "{ep_size: 8}",
       {1, 1, 8, 1, 1},
       {{{"ep"}, "{0,1,2,3,4,5,6,7}"}, {{"ep_shard"}, "{0}{1}{2}{3}{4}{5}{6}{7}"}}},
      {"X12",
       8,
       "{tp_size: 2, ep_size: 4}",
       {1, 1, 4, 1, 2},
       {{{"tp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"dp", "dp_shard", "dp_cp", "dp_shard_cp"}, "{0,2,4,6}{1,3,5,7}"},
        {{"ep"}, "{0,1,2,3}{4,5,6,7}"},
        {{"ep_shard"}, "{0,4}{1,5}{2,6}{3,7}"}}},
      {"X13",
       8,
       "{pp_size: 2, ep_size: 2, pipeline: {}}",
       {2, 1, 4, 1, 1},
       {{{"pp"}, "{0,4}{1,5}{2,6}{3,7}"}, {{"ep"}, "{0,1}{2,3}{4,5}{6,7}"}, {{"ep_shard"}, "{0,2}{1,3}{4,6}{5,7}"}}},
      {"X14",
       16,
       "{pp_size: 2, cp_size: 2, ep_size: 4, pipeline: {}}",
       {2, 1, 4, 2, 1},
       {{{"pp"}, "{0,8}{1,9}{2,10}{3,11}{4,12}{5,13}{6,14}{7,15}"},
        {{"cp"}, "{0,1}{2,3}{4,5}{6,7}{8,9}{10,11}{12,13}{14,15}"},
        {{"dp_shard", "dp"}, "{0,2,4,6}{1,3,5,7}{8,10,12,14}{9,11,13,15}"},
        {{"dp_shard_cp", "dp_cp"}, "{0,1,2,3,4,5,6,7}{8,9,10,11,12,13,14,15}"},
        {{"ep"}, "{0,1,2,3}{4,5,6,7}{8,9,10,11}{12,13,14,15}"},
        {{"ep_shard"}, "{0,4}{1,5}{2,6}{3,7}{8,12}{9,13}{10,14}{11,15}"}}},
      {"X15",
       16,
       "{dp_replicate_size: 2, ep_size: 4}",
       {1, 2, 8, 1, 1},
       {{{"dp_replicate"}, "{0,8}{1,9}{2,10}{3,11}{4,12}{5,13}{6,14}{7,15}"},
        {{"dp_shard"}, "{0,1,2,3,4,5,6,7}{8,9,10,11,12,13,14,15}"},
        {{"ep"}, "{0,1,2,3}{4,5,6,7}{8,9,10,11}{12,13,14,15}"},
        {{"ep_shard"}, "{0,4,8,12}{1,5,9,13}{2,6,10,14}{3,7,11,15}"}}},
      {"X16",
       4,
       "{pp_size: 2, tp_size: 2, pipeline: {}}",
       {2, 1, 1, 1, 2},
       {{{"pp"}, "{0,2}{1,3}"}, {{"tp"}, "{0,1}{2,3}"}, {{"dp", "dp_shard", "dp_cp"}, "{0}{1}{2}{3}"}}},
      {"X17",
       4,
       "{dp_replicate_size: 2}",
       {1, 2, 2, 1, 1},
       {{{"dp_replicate"}, "{0,2}{1,3}"}, {{"dp_shard", "dp_shard_cp"}, "{0,1}{2,3}"}, {{"dp", "dp_cp"}, "{0,1,2,3}"}}},
      {"X18",
       4,
       "{cp_size: 2, tp_size: 2}",
       {1, 1, 1, 2, 2},
       {{{"cp", "dp_shard_cp", "dp_cp"}, "{0,2}{1,3}"}, {{"tp"}, "{0,1}{2,3}"}}},
      {"X19",
       4,
       "{tp_size: 2}",
       {1, 1, 2, 1, 2},
       {{{"tp"}, "{4,5}{6,7}"}, {{"dp", "dp_shard", "dp_shard_cp", "dp_cp"}, "{4,6}{5,7}"}},
       {4, 5, 6, 7}},
      {"X20",
       4,
       "{tp_size: 2}",
       {1, 1, 2, 1, 2},
       {{{"tp"}, "{0,2}{1,3}"}, {{"dp", "dp_shard", "dp_shard_cp", "dp_cp"}, "{0,1}{2,3}"}},
       {0, 2, 1, 3}},
      {"X22",
       8,
       "{pp_size: 4, tp_size: 2, pipeline: {}}",
       {4, 1, 1, 1, 2},
       {{{"pp"}, "{0,2,4,6}{1,3,5,7}"}, {{"tp"}, "{0,1}{2,3}{4,5}{6,7}"}}},
      {"X23",
       8,
       "{pp_size: 2, dp_replicate_size: 2, pipeline: {}}",
       {2, 2, 2, 1, 1},
       {{{"pp"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"dp_replicate"}, "{0,2}{1,3}{4,6}{5,7}"},
        {{"dp_shard", "dp_shard_cp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"dp", "dp_cp"}, "{0,1,2,3}{4,5,6,7}"}}},
      {"X24",
       8,
       "{pp_size: 2, tp_size: 2, ep_size: 4, pipeline: {}}",
       {2, 1, 2, 1, 2},
       {{{"ep"}, "{0,1,2,3}{4,5,6,7}"},
        {{"ep_shard"}, "{0}{1}{2}{3}{4}{5}{6}{7}"},
        {{"pp"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"dp", "dp_shard", "dp_cp"}, "{0,2}{1,3}{4,6}{5,7}"}}},
      {"X25",
       8,
       "{strategy: megatron_fsdp, cp_size: 2, tp_size: 2}",
       {2, 2, 2},
       {{{"dp"}, "{0,4}{1,5}{2,6}{3,7}"},
        {{"cp"}, "{0,2}{1,3}{4,6}{5,7}"},
        {{"tp"}, "{0,1}{2,3}{4,5}{6,7}"},
        {{"dp_cp"}, "{0,2,4,6}{1,3,5,7}"}}},
      {"X26",
       8,
       "{strategy: megatron_fsdp, tp_size: 2}",
       {4, 1, 2},
       {{{"dp"}, "{0,2,4,6}{1,3,5,7}"}, {{"tp"}, "{0,1}{2,3}{4,5}{6,7}"}}},
  };
  return all;
}

DistributedSetup setup_of(const Example& e) {
  Read r = read(e.section);
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  config::Problems problems(r.report, *r.node.find("distributed"), "distributed");
  auto setup = resolve_section(r.section, {e.world, std::nullopt, e.ranks, {}}, problems, r.remarks.warnings);
  REQUIRE_MESSAGE(setup, r.report.text());
  return *setup;
}

}  // namespace

TEST_CASE("The worked meshes have their shapes and groups") {
  for (const Example& e : examples()) {
    CAPTURE(e.name);
    const DistributedSetup setup = setup_of(e);
    const MeshContext& mesh = setup.mesh_context;
    std::vector<int> shape;
    for (const comm::MeshAxis& axis : mesh.device_mesh()->axes()) shape.push_back(axis.size);
    CHECK(shape == e.shape);
    for (const auto& [axes, text] : e.groups) {
      for (const std::string& axis : axes) {
        CAPTURE(axis);
        CHECK(mesh.groups(axis) == groups_of(text));
      }
    }
    // Axes of size 1 have one group a rank.
    for (const std::string& axis : mesh.axes()) {
      if (*mesh.size(axis) == 1) CHECK(mesh.groups(axis).size() == static_cast<size_t>(mesh.world_size()));
    }
    CHECK(mesh.moe_mesh().has_value() == (mesh.ep_size() > 1));
    CHECK(mesh.size("dp_cp").has_value() == (setup.strategy() == Strategy::kFsdp2 || mesh.cp_size() > 1));
  }
}

TEST_CASE("The worked meshes have their coordinates") {
  for (const Example& e : examples()) {
    CAPTURE(e.name);
    const DistributedSetup setup = setup_of(e);
    const comm::DeviceMesh& mesh = *setup.mesh_context.device_mesh();
    for (int position = 0; position < mesh.size(); ++position) {
      const int rank = mesh.ranks()[static_cast<size_t>(position)];
      const std::vector<int> at = mesh.coordinates(rank);
      CHECK(mesh.rank_at(at) == rank);
      int again = 0;
      for (size_t a = 0; a < at.size(); ++a) again = again * mesh.axes()[a].size + at[a];
      CHECK(again == position);
      if (setup.strategy() != Strategy::kFsdp2) continue;
      const MeshContext& c = setup.mesh_context;
      const int s_size = c.dp_shard_size(), cp = c.cp_size();
      CHECK(c.index(rank, "dp") == at[1] * s_size + at[2]);
      CHECK(c.index(rank, "dp_shard_cp") == at[2] * cp + at[3]);
      CHECK(c.index(rank, "dp_cp") == (at[1] * s_size + at[2]) * cp + at[3]);
      CHECK(c.data_rank(rank) == c.index(rank, "dp"));
      if (c.ep_size() == 1) continue;
      const int stage = mesh.size() / c.pp_size(), inside = position % stage;
      CHECK(c.index(rank, "ep") == inside % c.ep_size());
      CHECK(c.index(rank, "ep_shard") == inside / c.ep_size());
    }
  }
}

TEST_CASE("Single ranks of the worked meshes") {
  const auto example = [](const char* name) {
    for (const Example& e : examples()) {
      if (e.name == std::string(name)) return setup_of(e).mesh_context;
    }
    FAIL("no such example");
    return MeshContext();
  };
  CHECK(example("X8").device_mesh()->coordinates(13) == std::vector<int>{0, 1, 1, 0, 1});
  const MeshContext x14 = example("X14");
  CHECK(x14.device_mesh()->coordinates(11) == std::vector<int>{1, 0, 1, 1, 0});
  const RankView view = view_of(x14, 11);
  CHECK(view.stage == 1);
  const std::map<std::string, int> at(view.coordinates.begin(), view.coordinates.end());
  CHECK(at.at("ep") == 3);
  CHECK(at.at("ep_shard") == 0);
  const std::map<std::string, std::vector<int>> groups(view.groups.begin(), view.groups.end());
  CHECK(groups.at("ep") == std::vector<int>{8, 9, 10, 11});
  CHECK(groups.at("pp") == std::vector<int>{3, 11});
  CHECK(x14.moe_mesh_of_stage(1).ranks() == std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15});
  CHECK(x14.moe_mesh_of_stage(1).axes() == std::vector<comm::MeshAxis>{{"ep_shard", 2}, {"ep", 4}});
  CHECK(example("X5").device_mesh()->coordinates(6) == std::vector<int>{0, 0, 1, 1, 0});
  CHECK(example("X5").index(6, "dp_shard_cp") == 3);
  CHECK(example("X5").index(6, "dp") == 1);
}

TEST_CASE("X21: a mesh that leaves ranks idle is refused here") {
  CHECK(has(problems("{dp_size: 2, tp_size: 2}", 8), "= 4 ranks, but the job has 8"));
}

TEST_CASE("X27: ddp has no mesh; the data-parallel rank is the rank") {
  const MeshContext mesh = setup("{strategy: ddp}", 5).mesh_context;
  CHECK(!mesh.device_mesh());
  CHECK(mesh.data_ranks() == 5);
  CHECK(mesh.data_rank(4) == 4);
}

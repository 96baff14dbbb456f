// What holds for every mesh: coordinates invert, groups partition the ranks, derived axes match their sources.
#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <random>

#include "distributed/mesh_picture.h"
#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;

namespace {

MeshContext mesh_of(const ParallelismSizes& sizes, int64_t world, std::vector<int> ranks = {}) {
  return DistributedSetup::build({.parallelism_sizes = sizes, .world_size = world, .ranks = std::move(ranks)})
      .mesh_context;
}

// A fast check that does not report each element.
bool partitions(const MeshContext& mesh, const std::string& axis) {
  std::map<int, int> seen;
  for (const std::vector<int>& group : mesh.groups(axis)) {
    if (static_cast<int>(group.size()) != *mesh.size(axis)) return false;
    for (size_t i = 0; i < group.size(); ++i) {
      if (seen[group[i]]++ != 0 || mesh.index(group[i], axis) != static_cast<int>(i)) return false;
      if (mesh.group(group[i], axis) != group) return false;
    }
  }
  return static_cast<int64_t>(seen.size()) == mesh.world_size();
}

bool coordinates_invert(const comm::DeviceMesh& mesh) {
  return std::all_of(mesh.ranks().begin(), mesh.ranks().end(),
                     [&](int rank) { return mesh.rank_at(mesh.coordinates(rank)) == rank; });
}

// Two ranks share a group of a derived axis exactly when they differ in nothing but its source axes.
bool derived_match(const comm::DeviceMesh& mesh) {
  for (const auto& [name, sources] : mesh.derived()) {
    int size = 1;
    for (const std::string& source : sources) size *= mesh.size({source});
    if (mesh.size({name}) != size) return false;
    for (int rank : mesh.ranks()) {
      if (mesh.group(rank, {name}) != mesh.group(rank, sources)) return false;
      for (int peer : mesh.group(rank, {name})) {
        for (const comm::MeshAxis& axis : mesh.axes()) {
          const bool source = std::find(sources.begin(), sources.end(), axis.name) != sources.end();
          if (!source && mesh.index(peer, {axis.name}) != mesh.index(rank, {axis.name})) return false;
        }
      }
    }
  }
  return true;
}

// Experts lie on consecutive ranks of one stage.
bool experts_fit(const MeshContext& mesh) {
  if (!mesh.moe_mesh()) return mesh.ep_size() == 1;
  for (const std::vector<int>& group : mesh.groups("ep")) {
    for (int rank : group) {
      if (mesh.index(rank, "pp") != mesh.index(group[0], "pp")) return false;
    }
  }
  return *mesh.size("ep_shard") * mesh.ep_size() * mesh.pp_size() == mesh.world_size();
}

void check(const MeshContext& mesh) {
  CHECK(coordinates_invert(*mesh.device_mesh()));
  CHECK(derived_match(*mesh.device_mesh()));
  CHECK(experts_fit(mesh));
  for (const std::string& axis : mesh.axes()) CHECK_MESSAGE(partitions(mesh, axis), axis);
}

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) all.push_back(d);
  }
  return all;
}

}  // namespace

TEST_CASE("Every mesh of up to 64 ranks is consistent") {
  int count = 0;
  for (int64_t world = 1; world <= 64; ++world) {
    for (int64_t pp : divisors(world)) {
      for (int64_t tp : divisors(world / pp)) {
        for (int64_t cp : divisors(world / pp / tp)) {
          const int64_t dp = world / pp / tp / cp;
          for (int64_t replicate : divisors(dp)) {
            if (replicate == dp && dp > 1) continue;
            // One size of the experts' axis for each, all of them over the whole loop.
            const std::vector<int64_t> eps = divisors(world / pp);
            const int64_t ep = eps[static_cast<size_t>(count) % eps.size()];
            check(mesh_of({.dp_size = std::nullopt,
                           .dp_replicate_size = replicate,
                           .tp_size = tp,
                           .pp_size = pp,
                           .cp_size = cp,
                           .ep_size = ep},
                          world));
            ++count;
          }
        }
      }
    }
  }
  MESSAGE(count << " meshes");
  CHECK(count > 1000);
}

TEST_CASE("Random larger meshes, also on shuffled ranks, are consistent") {
  std::mt19937 random(7);
  for (int i = 0; i < 40; ++i) {
    const auto pick = [&](std::vector<int64_t> from) { return from[random() % from.size()]; };
    const int64_t tp = pick({1, 2, 3, 4, 8}), pp = pick({1, 2, 3, 5, 8}), cp = pick({1, 2, 4, 7}),
                  dp = pick({2, 4, 6, 12, 16});
    const int64_t replicate = pick({1, dp / 2}), world = tp * pp * cp * dp;
    const int64_t ep = pick(divisors(world / pp));
    if (world > 4096) continue;
    std::vector<int> ranks;
    if (i % 2 == 1) {
      ranks.resize(static_cast<size_t>(world) * 2);
      std::iota(ranks.begin(), ranks.end(), 0);
      std::shuffle(ranks.begin(), ranks.end(), random);
      ranks.resize(static_cast<size_t>(world));
    }
    check(mesh_of({.dp_replicate_size = replicate, .tp_size = tp, .pp_size = pp, .cp_size = cp, .ep_size = ep}, world,
                  ranks));
  }
}

TEST_CASE("A hundred thousand ranks resolve in milliseconds") {
  const auto start = std::chrono::steady_clock::now();
  const MeshContext mesh =
      mesh_of({.dp_replicate_size = 5, .tp_size = 8, .pp_size = 10, .cp_size = 2, .ep_size = 16}, 100000);
  CHECK(mesh.group(54321, "dp_cp").size() == 1250);
  CHECK(mesh.group(54321, "ep").front() % 16 == 0);
  const double resolved = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const std::string picture = mesh_picture(mesh, {.gpus_per_node = 8}) + group_table(mesh, {.gpus_per_node = 8});
  const double drawn = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  MESSAGE(resolved << " ms, drawn after " << drawn << " ms");
  CHECK(resolved < 100);
  CHECK(drawn < 1000);
  CHECK(picture.size() < 6000);
}

TEST_CASE("A mesh is drawn as rows of its innermost axis, with the nodes") {
  const MeshContext mesh = mesh_of({.tp_size = 2, .pp_size = 2}, 8);
  CHECK(mesh_line(mesh) == "pp 2 x dp_shard 2 x tp 2 = 8 ranks");
  CHECK(mesh_picture(mesh, {.gpus_per_node = 4}) ==
        "                      tp 0  tp 1\n"
        "  pp 0  dp_shard 0       0     1   node 0\n"
        "        dp_shard 1       2     3\n"
        "  pp 1  dp_shard 0       4     5   node 1\n"
        "        dp_shard 1       6     7\n");
  CHECK(group_table(mesh, {.gpus_per_node = 4}) ==
        "  pp                                        4 groups of 2: 0 4   across 2 nodes\n"
        "  dp_shard = dp = dp_shard_cp = dp_cp       4 groups of 2: 0 2   inside a node\n"
        "  tp                                        4 groups of 2: 0 1   inside a node\n");
  CHECK(mesh_line(mesh_of({}, 1)) == "1 rank");
  CHECK(mesh_picture(mesh_of({}, 1)) == "    0\n");
  const std::string large = mesh_picture(mesh_of({.tp_size = 4}, 1024));
  CHECK(has(large, "more rows"));
  CHECK(has(large, "1023"));
  const MeshContext ddp = DistributedSetup::build({.strategy = "ddp", .world_size = 16}).mesh_context;
  CHECK(mesh_picture(ddp, {.gpus_per_node = 8}) == "  0 1 2 3 4 5 6 7   node 0\n  8 9 10 11 12 13 14 15   node 1\n");
}

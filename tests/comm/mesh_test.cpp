#include "comm/mesh.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "comm/planning.h"
#include "core/error.h"
#include "support/run_mesh.h"

using namespace automodel;
using comm::Axes;
using comm::DeviceMesh;
using comm::MeshAxis;

namespace {

const std::vector<std::string> kNames{"pp", "dp_replicate", "dp_shard", "cp", "tp"};
using Groups = std::vector<std::vector<int>>;

DeviceMesh mesh_of(const std::vector<int>& sizes, std::vector<int> ranks = {}) {
  std::vector<MeshAxis> axes;
  for (size_t a = 0; a < kNames.size(); ++a) axes.push_back({kNames[a], sizes[a]});
  return ranks.empty() ? DeviceMesh(axes) : DeviceMesh(axes, std::move(ranks));
}

// Every (P, R, S, C, T) whose product is at most 64.
std::vector<std::vector<int>> all_sizes() {
  std::vector<std::vector<int>> all{{}};
  for (size_t a = 0; a < kNames.size(); ++a) {
    std::vector<std::vector<int>> longer;
    for (const auto& sizes : all) {
      const int product = std::accumulate(sizes.begin(), sizes.end(), 1, std::multiplies<>());
      for (int n = 1; product * n <= 64; ++n) {
        longer.push_back(sizes);
        longer.back().push_back(n);
      }
    }
    all = std::move(longer);
  }
  return all;
}

// Every subset of the axes, in mesh order.
std::vector<Axes> all_subsets() {
  std::vector<Axes> all;
  for (unsigned mask = 0; mask < 32; ++mask) {
    Axes axes;
    for (size_t a = 0; a < 5; ++a) {
      if (mask >> a & 1) axes.push_back(kNames[a]);
    }
    all.push_back(axes);
  }
  return all;
}

}  // namespace

TEST_CASE("coordinates of every rank of every mesh up to 64 ranks invert, the last axis fastest") {
  int meshes = 0;
  for (const auto& s : all_sizes()) {
    const DeviceMesh mesh = mesh_of(s);
    ++meshes;
    bool good = true;
    for (int rank = 0; rank < mesh.size(); ++rank) {
      const std::vector<int> c = mesh.coordinates(rank);
      good = good && mesh.rank_at(c) == rank;
      good = good && rank == (((c[0] * s[1] + c[1]) * s[2] + c[2]) * s[3] + c[3]) * s[4] + c[4];
    }
    REQUIRE(good);
  }
  CHECK(meshes > 3000);
}

TEST_CASE("groups of every axis list of every mesh up to 64 ranks partition the ranks") {
  const std::vector<Axes> subsets = all_subsets();
  const std::vector<std::vector<int>> sizes = all_sizes();
  for (size_t m = 0; m < sizes.size(); m += 7) {  // a seventh of them; every product occurs
    const DeviceMesh mesh = mesh_of(sizes[m]);
    for (const Axes& axes : subsets) {
      std::vector<int> seen;
      bool good = true;
      for (const std::vector<int>& group : mesh.groups(axes)) {
        good = good && static_cast<int>(group.size()) == mesh.size(axes);
        for (size_t i = 0; i < group.size(); ++i) {
          seen.push_back(group[i]);
          good = good && mesh.index(group[i], axes) == static_cast<int>(i) && mesh.group(group[i], axes) == group;
        }
      }
      std::sort(seen.begin(), seen.end());
      good = good && seen == mesh.ranks();
      REQUIRE(good);
    }
  }
}

TEST_CASE("the worked examples of a mesh have their groups") {
  const Axes kDp{"dp_replicate", "dp_shard"}, kShardCp{"dp_shard", "cp"}, kDpCp{"dp_replicate", "dp_shard", "cp"};
  const DeviceMesh hsdp = mesh_of({1, 2, 4, 1, 1});
  CHECK(hsdp.groups({"dp_replicate"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(hsdp.groups({"dp_shard"}) == Groups{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(hsdp.groups(kDp) == Groups{{0, 1, 2, 3, 4, 5, 6, 7}});

  const DeviceMesh cp_tp = mesh_of({1, 1, 2, 2, 2});
  CHECK(cp_tp.groups({"tp"}) == Groups{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(cp_tp.groups({"cp"}) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(cp_tp.groups(kDp) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(cp_tp.groups(kShardCp) == Groups{{0, 2, 4, 6}, {1, 3, 5, 7}});
  CHECK(cp_tp.coordinates(6) == std::vector<int>{0, 0, 1, 1, 0});
  CHECK(cp_tp.index(6, kShardCp) == 3);
  CHECK(cp_tp.index(6, kDp) == 1);

  const DeviceMesh pipeline = mesh_of({2, 1, 1, 2, 2});
  CHECK(pipeline.groups({"pp"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(pipeline.groups(kDpCp) == Groups{{0, 2}, {1, 3}, {4, 6}, {5, 7}});

  const DeviceMesh sixteen = mesh_of({1, 2, 2, 2, 2});
  CHECK(sixteen.coordinates(13) == std::vector<int>{0, 1, 1, 0, 1});
  CHECK(sixteen.groups(kDp) == Groups{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}});
  CHECK(sixteen.groups(kDpCp) == Groups{{0, 2, 4, 6, 8, 10, 12, 14}, {1, 3, 5, 7, 9, 11, 13, 15}});

  CHECK(mesh_of({1, 1, 2, 1, 2}, {4, 5, 6, 7}).groups({"tp"}) == Groups{{4, 5}, {6, 7}});
  CHECK(mesh_of({1, 1, 2, 1, 2}, {0, 2, 1, 3}).groups({"tp"}) == Groups{{0, 2}, {1, 3}});
  CHECK(mesh_of({1, 1, 2, 1, 2}, {0, 2, 1, 3}).groups(kDp) == Groups{{0, 1}, {2, 3}});

  const DeviceMesh experts({{"ep_shard", 2}, {"ep", 4}});
  CHECK(experts.groups({"ep"}) == Groups{{0, 1, 2, 3}, {4, 5, 6, 7}});
  CHECK(experts.groups({"ep_shard"}) == Groups{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
}

TEST_CASE("a mesh describes a rank by the axes that are split") {
  CHECK(mesh_of({2, 1, 1, 1, 2}).describe(3) == "pp 1, tp 1");
  CHECK(mesh_of({1, 1, 1, 1, 1}).describe(0).empty());
  CHECK(mesh_of({2, 1, 1, 1, 2}).has_axis("cp"));
  CHECK_FALSE(mesh_of({2, 1, 1, 1, 2}).has_axis("ep"));
}

TEST_CASE("a mesh that does not fit its ranks is refused") {
  CHECK_THROWS_AS(DeviceMesh({{"dp", 0}}), Error);
  CHECK_THROWS_AS(DeviceMesh({{"dp", 2}, {"dp", 2}}), Error);
  CHECK_THROWS_AS(DeviceMesh({{"dp", 2}}, {0, 1, 2}), Error);
  CHECK_THROWS_AS(DeviceMesh({{"dp", 2}}, {1, 1}), Error);
  const DeviceMesh mesh({{"dp", 2}}, {4, 5});
  CHECK_FALSE(mesh.contains(0));
  CHECK_THROWS_AS(mesh.coordinates(0), Error);
  CHECK_THROWS_AS(mesh.size({"tp"}), Error);
  const std::vector<int> outside{2};
  CHECK_THROWS_AS(mesh.rank_at(outside), Error);
}

TEST_CASE("the communicators of a mesh connect the ranks of its groups") {
  for (const std::vector<int>& sizes : {std::vector<int>{2, 1, 2, 1, 2}, {1, 1, 3, 2, 1}, {1, 2, 2, 1, 1}}) {
    test::run_mesh(mesh_of(sizes).size(), [&](comm::World& world) {
      comm::MeshGroups groups(mesh_of(sizes), world.global());
      for (const Axes& axes : all_subsets()) {
        comm::Communicator& c = groups.along(axes);
        const std::vector<int> members = groups.mesh().group(world.rank(), axes);
        REQUIRE(c.size() == static_cast<int>(members.size()));
        REQUIRE(c.rank() == groups.mesh().index(world.rank(), axes));
        const std::vector<int32_t> mine{world.rank()};
        std::vector<int32_t> all(members.size());
        c.all_gather(comm::buffer_of(all), comm::buffer_of(mine));
        REQUIRE(std::equal(all.begin(), all.end(), members.begin()));
        REQUIRE(&groups.along(axes) == &c);
      }
      REQUIRE(groups.along({"dp_shard", "cp"}).name() == "dp_shard_cp");
    });
  }
}

TEST_CASE("a planned rank records what it would say, with sizes and axes") {
  std::vector<comm::CallRecord> records;
  comm::World world =
      comm::World::planning(70001, 100000, 8, [&](const comm::CallRecord& record) { records.push_back(record); });
  comm::MeshGroups groups(DeviceMesh({{"pp", 10}, {"dp_shard", 1250}, {"tp", 8}}), world.global());
  comm::Communicator& dp = groups.along({"dp_shard"});
  comm::Communicator& tp = groups.along({"tp"}, "tensor");
  CHECK(dp.size() == 1250);
  CHECK(dp.rank() == 70001 / 8 % 1250);
  CHECK(tp.rank() == 1);

  dp.all_gather({nullptr, 1250 * 10, DType::kBF16}, {nullptr, 10, DType::kBF16});
  dp.reduce_scatter({nullptr, 10, DType::kF32}, {nullptr, 12500, DType::kF32}, comm::Reduce::kSum);
  tp.start_all_reduce({nullptr, 100, DType::kBF16}, comm::Reduce::kSum).wait();
  tp.send(0, {nullptr, 3, DType::kF32});
  tp.broadcast({nullptr, 4, DType::kI64}, 0);
  tp.barrier();
  std::vector<int64_t> counts(8, 5);
  tp.all_to_all({nullptr, 40, DType::kU8}, {nullptr, 40, DType::kU8}, counts, counts);

  REQUIRE(records.size() == 7);
  CHECK(records[0].call == comm::Call::kAllGather);
  CHECK(records[0].axis == "dp_shard");
  CHECK(records[0].bytes == 25000);
  CHECK(records[0].sent_bytes() == 25000LL * 1249 / 1250);
  CHECK(records[1].bytes == 50000);
  CHECK(records[2].axis == "tensor");
  CHECK(records[2].bytes == 200);
  CHECK(records[2].sent_bytes() == 350);
  CHECK(records[3].peer == 0);
  CHECK(records[4].bytes == 32);
  CHECK(records[5].call == comm::Call::kBarrier);
  CHECK(records[6].bytes == 35);
  CHECK_THROWS_AS(tp.split(0, 0, "x"), Error);
}

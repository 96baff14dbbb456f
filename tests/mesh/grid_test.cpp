// The whole matrix: every mesh of up to 8 ranks with every schedule, and every one of 16 ranks that has three axes or
// more, against one rank (ARCHITECTURE law 2).
#include <doctest/doctest.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

// Every mesh of `size` ranks whose axes are powers of two.
std::vector<MeshSizes> meshes_of(int size) {
  std::vector<MeshSizes> out;
  auto powers = [&](int most) {
    std::vector<int> list;
    for (int n = 1; n <= most && size % n == 0; n *= 2) list.push_back(n);
    return list;
  };
  for (int pp : powers(4))
    for (int replicas : powers(size))
      for (int shards : powers(size))
        for (int cp : powers(size))
          for (int tp : powers(8)) {
            MeshSizes mesh{.pp = pp, .dp_replicate = replicas, .dp_shard = shards, .cp = cp, .tp = tp};
            if (mesh.size() != size) continue;
            out.push_back(mesh);
            mesh.sequence_parallel = true;
            if (tp > 1) out.push_back(mesh);
          }
  return out;
}

int axes_of(const MeshSizes& m) {
  return (m.pp > 1) + (m.dp_replicate > 1) + (m.dp_shard > 1) + (m.cp > 1) + (m.tp > 1);
}

// The models have four layers: two stages a rank on two ranks, one on four.
std::vector<std::string> schedules_of(const MeshSizes& mesh) {
  if (mesh.pp == 1) return {"1F1B"};
  if (mesh.pp == 4) return {"1F1B", "GPipe"};
  return {"1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"};
}

class Grid {
 public:
  void run(const MeshSizes& mesh, const std::string& schedule, const std::string& model) {
    MeshJob job;
    for (const auto& [name, config] : test::tiny_models())
      if (name == model) job.config = config;
    job.global_batch = 16;
    job.packed = jobs_ % 2 == 1;
    job.accumulation = jobs_ % 3 == 0 ? 2 : 1;
    auto& one = alone_[{model, job.packed, job.accumulation}];
    if (one.losses.empty()) one = test::run_job(job);
    job.mesh = mesh;
    job.schedule = schedule;
    job.context_method = static_cast<ops::ContextMethod>(jobs_ % 3);
    if (job.context_method == ops::ContextMethod::kAllToAll && mesh.cp * mesh.tp > 8)
      job.context_method = ops::ContextMethod::kRing;  // eight heads
    // Experts over as many of a stage's ranks as can have some, or half of them, or none.
    int stage = mesh.size() / mesh.pp;
    if (model == "mixtral" && jobs_ % 4 != 0) job.mesh.ep = std::min(8, stage);
    ++jobs_;
    CAPTURE(model);
    CAPTURE(job.mesh.text());
    CAPTURE(schedule);
    CAPTURE(job.packed);
    worst_.join(test::check_close(test::run_job(job), one));
  }
  void report() const {
    MESSAGE(jobs_, " jobs; largest relative errors: first loss ", worst_.first_loss, ", gradients ", worst_.gradient,
            ", norm ", worst_.norm, ", losses ", worst_.loss);
  }
  int jobs() const { return jobs_; }

 private:
  std::map<std::tuple<std::string, bool, int64_t>, MeshTrace> alone_;
  test::Closeness worst_;
  int jobs_ = 0;
};

const std::vector<std::string> kModels{"llama", "gpt2", "qwen3", "mixtral"};

}  // namespace

TEST_CASE("every mesh of up to 8 ranks with every schedule trains as one rank does") {
  Grid grid;
  for (int size : {2, 4, 8})
    for (const MeshSizes& mesh : meshes_of(size))
      for (const std::string& schedule : schedules_of(mesh))
        for (const std::string& model : kModels) grid.run(mesh, schedule, model);
  grid.report();
  CHECK(grid.jobs() > 500);
}

TEST_CASE("every mesh of 16 ranks with three axes or more trains as one rank does") {
  Grid grid;
  for (const MeshSizes& mesh : meshes_of(16)) {
    if (axes_of(mesh) < 3) continue;
    auto schedules = schedules_of(mesh);
    for (int i = 0; i < 2; ++i) {
      auto turn = static_cast<size_t>(grid.jobs());
      grid.run(mesh, schedules[turn % schedules.size()], kModels[turn % kModels.size()]);
    }
  }
  grid.report();
  CHECK(grid.jobs() > 100);
}

TEST_CASE("32 ranks with all axes train as one rank does") {
  Grid grid;
  MeshSizes mesh{.pp = 2, .dp_replicate = 2, .dp_shard = 2, .cp = 2, .tp = 2};
  for (bool rows : {false, true})
    for (const std::string& model : kModels) {
      mesh.sequence_parallel = rows;
      grid.run(mesh, rows ? "InterleavedZeroBubble" : "1F1B", model);
    }
}

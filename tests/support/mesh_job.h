// A training job whose data do not depend on the ranks, and what it leaves behind: for tests that hold meshes against
// each other.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/mesh.h"
#include "comm/world.h"
#include "distributed/fsdp2_config.h"
#include "engine/engine.h"

namespace automodel::test {

// The axes of a job, slowest first; the ranks are numbered like those of DistributedSetup.
struct MeshSizes {
  int pp = 1, dp_replicate = 1, dp_shard = 1, cp = 1, tp = 1, ep = 1;
  bool sequence_parallel = false;
  bool async_tensor_parallel = false;  // with sequence_parallel

  int dp() const { return dp_replicate * dp_shard; }
  int size() const { return pp * dp() * cp * tp; }
  std::string text() const;
};

// fp32, clipping that acts in every step.
engine::EngineOptions exact_options();

struct MeshJob {
  std::string config;  // config.json
  MeshSizes mesh;
  std::optional<distributed::TpPlan> tp_plan = std::nullopt;
  ops::ContextMethod context_method = ops::ContextMethod::kAllGather;
  engine::EngineOptions options = exact_options();
  std::string schedule = "1F1B";  // with several stages
  int microbatches = 4;           // of a batch, with several stages
  int steps = 10;
  int64_t accumulation = 2;
  int64_t global_batch = 32;
  int64_t length = 13;  // tokens of a sample
  bool packed = false;  // samples hold several documents
  int padding = -1;     // >= 0: the id at the end of samples, of which some are shorter and some all padding
  std::function<std::unique_ptr<Allocator>()> make_allocator = make_cpu_allocator;  // of each rank
  // What ranks on devices talk by, over the staged communicator; empty: that one itself.
  std::function<std::unique_ptr<comm::Communicator>(comm::Communicator& staged)> connect;
  int stop = 0;  // after so many steps another engine goes on with the state of the first; 0: never
};

inline MeshJob job_of(const std::string& config, const MeshSizes& mesh) {
  MeshJob job;
  job.config = config;
  job.mesh = mesh;
  return job;
}

struct MeshTrace {
  std::vector<double> losses;
  std::vector<float> norms;
  std::map<std::string, std::vector<float>> gradients;  // of the first step, before clipping
  std::map<std::string, std::vector<float>> weights;    // after the last one
  std::vector<MemoryStats> memory;                      // of each rank, in the last step
};

// Each rank is a thread (run_mesh).
MeshTrace run_job(const MeshJob& job);

// The pieces, for tests that put them together otherwise.
//
// Ragged label counts; every sample at 1 modulo 4 is without any label.
struct Sample {
  std::vector<int32_t> ids, labels, positions, document_start;
  int64_t length = 0;  // without padding
};
Sample sample_of(const MeshJob& job, int step, int64_t number, int64_t vocab);
// What a data-parallel rank gets of a step.
std::vector<nn::Tokens> batches_of(const MeshJob& job, int step, int dp_rank, int64_t vocab);
int64_t label_count(const MeshJob& job, int step, int64_t vocab);

// ARCHITECTURE law 2: first loss 1e-6, gradients 1e-5 of each tensor's norm, norm 1e-5, later losses 1e-5.
// The relative errors, the largest of each kind.
struct Closeness {
  double first_loss = 0, gradient = 0, norm = 0, loss = 0;
  void join(const Closeness& other);
};
Closeness check_close(const MeshTrace& a, const MeshTrace& b);
void check_identical(const MeshTrace& a, const MeshTrace& b);

}  // namespace automodel::test

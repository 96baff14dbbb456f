// Memory and traffic of one rank's training step, by running that step: engine::Engine on the meta device, whose
// allocator counts and whose kernels do nothing, with the planning communicator, which records. So the plan has no
// formulas of its own that could differ from what training does.
//
// Runs in time linear in the number of layers, whatever the number of ranks, of microbatches and the sizes.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "parallel/job_groups.h"
#include "plan/traffic.h"

namespace automodel::plan {

// One microbatch of a rank.
struct BatchShape {
  int64_t rows = 1;
  int64_t cols = 1;     // tokens of a row, padding included
  bool packed = false;  // rows hold several documents
  bool operator==(const BatchShape&) const = default;
};

// Microbatches without content, in workspace memory of `allocator`, as train::to_tokens lays them out.
nn::Tokens tokens_of(const BatchShape& shape, Allocator& allocator);

struct RankRequest {
  models::CausalLM* model = nullptr;  // placed on the planned rank for as long as the call takes
  engine::EngineOptions options;
  int rank = 0;
  int world_size = 1;
  // The job's mesh; null: data-parallel ranks alone, whose communicator is called `axis`.
  const distributed::MeshContext* mesh = nullptr;
  parallel::SharingOptions sharing;
  std::string axis = "world";
  BatchShape microbatch;
  int64_t accumulation = 1;             // microbatches of a step
  bool host_batches = false;            // batches are made in memory that is not the device's
  std::vector<BatchShape> evaluations;  // batches of the validation sets: the largest of each
  // What the caller's ranks tell each other in every step besides the engine's own calls. May be empty.
  std::function<void(const parallel::JobGroups&)> before_step, after_step;
};

// A unit of weights that are gathered, reduced and updated together. Bytes of this rank unless they say otherwise.
struct UnitPlan {
  bool of_layer = true;             // false: of what lies outside of the layers
  int64_t elements = 0;             // of its weights, on all ranks together, without padding
  int64_t master_bytes = 0;         // fp32
  int64_t compute_bytes = 0;        // the copy in param_dtype; 0 when that is fp32
  int64_t gathered_bytes = 0;       // the whole unit in param_dtype; 0 when nothing is gathered
  int64_t reduced_bytes = 0;        // the whole unit's gradient in reduce_dtype
  int64_t reduced_shard_bytes = 0;  // this rank's part of it
};

struct RankPlan {
  std::vector<UnitPlan> units;  // the root (embeddings, final norm, head), then the layers
  MemoryStats first;            // of the first step: `current` before it, peaks during it
  MemoryStats steady;           // the same of every later step
  MemoryStats evaluation;       // the same of a validation between two steps; zeros without one
  int64_t batch_bytes = 0;      // of the token tensors of a step, which are workspace
  Traffic traffic;              // of one step

  // Over the whole run.
  int64_t peak(MemoryClass memory_class) const;
  int64_t peak_total() const { return std::max({first.peak_total, steady.peak_total, evaluation.peak_total}); }
};

RankPlan plan_rank(const RankRequest& request);

// Ranks whose steps are the same in memory and traffic.
struct RankKind {
  int first = 0;  // stands for all of them
  int count = 1;
  // Which ranks, by their coordinates: "pp 1, tp 0-2"; empty: all of the job.
  std::string where() const;
  int pp = 0;
  Interval tp{0, 1};  // of tp_size
  int tp_size = 1;
  int pp_size = 1;

  bool has(const distributed::MeshContext& mesh, int rank) const;
};
// The distinct kinds among the ranks of a job, ascending. Data- and context-parallel ranks do not differ: a unit's flat
// buffer is padded so that all of them own as much of it, and they all work on microbatches of one shape. Pipeline
// ranks have other layers; tensor-parallel ranks differ where a weight cannot be cut evenly. `model` is placed anew.
// Adds the ranks of `next` to a kind that they follow on the tp axis; false: they do not.
bool join(RankKind& kind, const RankKind& next);
std::vector<RankKind> kinds_of_ranks(const distributed::MeshContext& mesh, models::CausalLM& model);

}  // namespace automodel::plan

// Memory falls as the axes promise, as the allocators count it. (tests/plan holds the same counts against the plan.)
#include <doctest/doctest.h>

#include <optional>

#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;

namespace {

// Wide enough that padding and what every rank has (norms) are small beside what is cut.
const char* const kWide = R"({"model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
  "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": false,
  "max_position_embeddings": 64})";

MemoryStats largest(const MeshSizes& mesh, std::optional<autograd::Recall> checkpointed = {}) {
  MeshJob job;
  job.config = kWide;
  job.mesh = mesh;
  job.options.activation_checkpointing = checkpointed.has_value();
  job.options.recall = checkpointed.value_or(autograd::Recall::kNothing);
  job.steps = 2;
  job.accumulation = 1;
  test::MeshTrace trace = test::run_job(job);
  MemoryStats most = trace.memory[0];
  for (const MemoryStats& stats : trace.memory)
    for (size_t i = 0; i < most.peak.size(); ++i) {
      most.peak[i] = std::max(most.peak[i], stats.peak[i]);
      most.current[i] = std::max(most.current[i], stats.current[i]);
    }
  return most;
}

double share(const MemoryStats& of, const MemoryStats& whole, MemoryClass c) {
  auto i = static_cast<size_t>(c);
  return static_cast<double>(of.current[i]) / static_cast<double>(whole.current[i]);
}

}  // namespace

TEST_CASE("weights and moments of a rank are its share, on every axis that cuts them") {
  MemoryStats whole = largest({});
  for (auto [mesh, expected] : {std::pair(MeshSizes{.dp_shard = 4}, 0.25),
                                {MeshSizes{.tp = 4}, 0.25},
                                {MeshSizes{.dp_shard = 2, .tp = 2}, 0.25},
                                {MeshSizes{.cp = 4}, 0.25},
                                {MeshSizes{.dp_replicate = 2, .dp_shard = 2}, 0.5},
                                {MeshSizes{.pp = 2}, 0.5}}) {
    CAPTURE(mesh.text());
    MemoryStats rank = largest(mesh);
    for (MemoryClass c : {MemoryClass::kParameters, MemoryClass::kOptimizer}) {
      CAPTURE(name_of(c));
      CHECK(share(rank, whole, c) >= expected * 0.99);
      CHECK(share(rank, whole, c) <= expected * 1.02);
    }
  }
}

TEST_CASE("activations of a rank are its share, and checkpointed ones the inputs of the layers") {
  auto activations = [](const MemoryStats& stats) {
    return static_cast<double>(stats.peak[static_cast<size_t>(MemoryClass::kActivations)]);
  };
  double whole = activations(largest({}));
  CHECK(activations(largest({.dp_shard = 4})) < 0.26 * whole);
  CHECK(activations(largest({.cp = 4})) < 0.4 * whole);  // 13 tokens are padded to 16, keys and values are gathered
  double tp = activations(largest({.tp = 4})), rows = activations(largest({.tp = 4, .sequence_parallel = true}));
  CHECK(tp < 0.75 * whole);
  CHECK(rows < 0.5 * whole);
  CHECK(rows < tp);
  // The inputs of four layers, and one layer at work.
  double kept = activations(largest({}, autograd::Recall::kNothing));
  CHECK(kept < 0.55 * whole);
  // And queries, keys and values, what attention gives, and both halves of the MLP: 3 + 1 + 4 widths more a layer, of
  // ten that it keeps otherwise. In either case the layer at work adds as much as most of another.
  double selected = activations(largest({}, autograd::Recall::kSelected));
  CHECK(selected > 1.2 * kept);
  CHECK(selected < 0.97 * whole);
}

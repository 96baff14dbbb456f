// Every mesh trains as one rank does (ARCHITECTURE law 2): tiny models on thread ranks, with accumulation, ragged
// labels, samples without labels and clipping that acts.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using autograd::Recall;
using test::job_of;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

const auto kModels = test::tiny_models();
const std::string kQwen3 = test::kTinyQwen3, kMixtral = test::kTinyMixtral;

}  // namespace

TEST_CASE("tensor and sequence parallel ranks train as one rank does") {
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    MeshTrace one = test::run_job(job_of(config, {}));
    CHECK(one.norms[0] > 0.5);
    for (int tp : {2, 4, 8})
      for (bool rows : {false, true}) {
        MeshSizes mesh{.tp = tp, .sequence_parallel = rows};
        CAPTURE(mesh.text());
        test::check_close(test::run_job(job_of(config, mesh)), one);
      }
  }
}

TEST_CASE("every schedule of a pipeline trains as one rank does") {
  for (const auto& [name, config] : kModels) {
    CAPTURE(name);
    MeshTrace one = test::run_job(job_of(config, {}));
    for (const char* schedule :
         {"1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"})
      for (int pp : {2, 4}) {
        if (pp == 4 && !parallel::is_single_stage(schedule)) continue;  // the models have four layers
        CAPTURE(schedule);
        MeshJob job = job_of(config, {.pp = pp});
        job.schedule = schedule;
        test::check_close(test::run_job(job), one);
      }
  }
}

TEST_CASE("schedules that add microbatches in their order give the bits of the same microbatches without a pipeline") {
  MeshJob alone = job_of(kQwen3, {});
  alone.accumulation = 8;  // two batches of four microbatches
  MeshTrace one = test::run_job(alone);
  for (const char* schedule : {"1F1B", "GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"}) {
    CAPTURE(schedule);
    MeshJob job = job_of(kQwen3, {.pp = 2});
    job.schedule = schedule;
    test::check_identical(test::run_job(job), one);
  }
}

TEST_CASE("context-parallel ranks train as one rank does, whatever the method, packed documents included") {
  for (const auto& [name, config] : kModels)
    for (bool packed : {false, true}) {
      CAPTURE(name);
      CAPTURE(packed);
      MeshJob alone = job_of(config, {});
      alone.packed = packed;
      MeshTrace one = test::run_job(alone);
      for (int cp : {2, 3, 4, 8})
        for (auto method : {ops::ContextMethod::kAllGather, ops::ContextMethod::kRing, ops::ContextMethod::kAllToAll}) {
          if (method == ops::ContextMethod::kAllToAll && cp == 3) continue;  // eight heads
          CAPTURE(cp);
          CAPTURE(static_cast<int>(method));
          MeshJob job = alone;
          job.mesh.cp = cp;
          job.context_method = method;
          test::check_close(test::run_job(job), one);
        }
    }
}

TEST_CASE("meshes of several axes train as one rank does") {
  struct Case {
    MeshSizes mesh;
    const char* schedule = "1F1B";
    bool packed = false;
  };
  const std::vector<Case> cases{
      {{.dp_shard = 2, .tp = 2}},
      {{.dp_replicate = 2, .dp_shard = 2, .tp = 2, .sequence_parallel = true}},
      {{.dp_shard = 2, .cp = 2, .tp = 2}},
      {{.dp_shard = 2, .cp = 2, .tp = 2, .sequence_parallel = true}, "1F1B", true},
      {{.pp = 2, .dp_shard = 2}, "GPipe"},
      {{.pp = 2, .tp = 2, .sequence_parallel = true}, "InterleavedZeroBubble"},
      {{.pp = 2, .cp = 2}, "Interleaved1F1B", true},
      {{.pp = 2, .dp_shard = 2, .tp = 2}, "ZBVZeroBubble"},
      {{.pp = 2, .dp_shard = 2, .cp = 2, .tp = 2, .sequence_parallel = true}, "DualPipeV"},
      {{.pp = 4, .dp_replicate = 2, .tp = 2}, "1F1B", true},
      {{.pp = 2, .dp_replicate = 2, .dp_shard = 2, .cp = 2, .tp = 2}, "1F1B"},
  };
  for (const auto& [name, config] : kModels)
    for (const Case& c : cases) {
      CAPTURE(name);
      CAPTURE(c.mesh.text());
      MeshJob job = job_of(config, {});
      job.packed = c.packed;
      job.accumulation = 1;
      MeshTrace one = test::run_job(job);
      job.mesh = c.mesh;
      job.schedule = c.schedule;
      test::check_close(test::run_job(job), one);
    }
}

TEST_CASE("dropout falls on the same elements on every mesh") {
  std::string gpt2 = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 4, "n_head": 8,
    "n_positions": 32, "initializer_range": 0.2, "resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3})";
  MeshJob alone = job_of(gpt2, {});
  alone.options.dropout_seed = 3;
  MeshTrace one = test::run_job(alone);
  MeshTrace without = test::run_job(job_of(gpt2, {}));
  CHECK(one.losses[0] != without.losses[0]);
  for (const MeshSizes& mesh : {MeshSizes{.tp = 2},
                                {.tp = 4, .sequence_parallel = true},
                                {.cp = 2},
                                {.pp = 2},
                                {.pp = 2, .dp_shard = 2, .cp = 2, .tp = 2, .sequence_parallel = true}}) {
    CAPTURE(mesh.text());
    MeshJob job = alone;
    job.mesh = mesh;
    test::check_close(test::run_job(job), one);
  }
}

TEST_CASE("checkpointed activations, repetition and waiting for reductions change no bit on any mesh") {
  for (const auto& [name, config] : kModels)
    for (const MeshSizes& mesh : {MeshSizes{.dp_shard = 2, .tp = 2, .sequence_parallel = true},
                                  {.tp = 2},
                                  {.cp = 4},
                                  {.pp = 2, .dp_shard = 2}}) {
      CAPTURE(name);
      CAPTURE(mesh.text());
      MeshJob job = job_of(config, mesh);
      job.steps = 3;
      job.schedule = "InterleavedZeroBubble";
      MeshTrace base = test::run_job(job);
      test::check_identical(test::run_job(job), base);
      job.options.activation_checkpointing = true;
      for (Recall recall : {Recall::kNothing, Recall::kRouting, Recall::kSelected}) {
        CAPTURE(static_cast<int>(recall));
        job.options.recall = recall;
        test::check_identical(test::run_job(job), base);
      }
      job.options.activation_checkpointing = false;
      job.options.overlap_reduce = false;
      job.options.prefetch = job.options.prefetch_backward = 0;
      test::check_identical(test::run_job(job), base);
    }
}

TEST_CASE("expert-parallel ranks train as one rank does") {
  MeshJob alone = job_of(kMixtral, {});
  MeshTrace one = test::run_job(alone);
  for (const MeshSizes& mesh : {MeshSizes{.dp_shard = 2, .ep = 2},
                                {.dp_shard = 4, .ep = 2},
                                {.dp_shard = 8, .ep = 8},
                                {.dp_replicate = 2, .dp_shard = 2, .ep = 4},
                                {.cp = 2, .ep = 2},
                                {.tp = 2, .ep = 2},
                                {.dp_shard = 2, .tp = 2, .ep = 4, .sequence_parallel = true},
                                {.pp = 2, .dp_shard = 2, .ep = 2},
                                {.pp = 2, .dp_shard = 2, .cp = 2, .tp = 2, .ep = 4, .sequence_parallel = true}}) {
    CAPTURE(mesh.text());
    MeshJob job = alone;
    job.mesh = mesh;
    job.schedule = "InterleavedZeroBubble";
    test::check_close(test::run_job(job), one);
    if (mesh.pp > 1) continue;
    job.options.unit.shard = false;
    test::check_close(test::run_job(job), one);
  }
}

TEST_CASE("dropping the weights of a stage between its microbatches changes no bit") {
  for (const char* schedule : {"1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"}) {
    CAPTURE(schedule);
    MeshJob job = job_of(kMixtral, {.pp = 2, .dp_shard = 2, .tp = 2, .ep = 2, .sequence_parallel = true});
    job.schedule = schedule;
    job.steps = 3;
    MeshTrace kept = test::run_job(job);
    job.options.reshard_after_forward = true;
    test::check_identical(test::run_job(job), kept);
    job.options.prefetch = 2;
    job.options.activation_checkpointing = true;
    test::check_identical(test::run_job(job), kept);
    job.options.recall = Recall::kSelected;
    test::check_identical(test::run_job(job), kept);
  }
}

// Jobs on a device whose memory the host cannot touch: every bit is that of the CPU, on every kind of mesh.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "support/guarded_device.h"
#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

void check_same(const MeshTrace& a, const MeshTrace& b) {
  test::check_identical(a, b);
  REQUIRE(a.gradients.size() == b.gradients.size());
  for (const auto& [name, values] : a.gradients) {
    CAPTURE(name);
    CHECK(std::memcmp(values.data(), b.gradients.at(name).data(), values.size() * sizeof(float)) == 0);
  }
}

// The job on the CPU and on the device.
void check(MeshJob job) {
  CAPTURE(job.config);
  CAPTURE(job.mesh.text());
  CAPTURE(job.schedule);
  job.steps = 3;
  job.global_batch = 16;
  MeshTrace cpu = test::run_job(job);
  job.make_allocator = [] { return test::make_guarded_allocator(); };
  MeshTrace device = test::run_job(job);
  check_same(device, cpu);
}

void check_on(const MeshSizes& mesh) {
  for (const auto& [name, config] : test::tiny_models()) {
    if (mesh.ep > 1 && name != "mixtral") continue;
    check(test::job_of(config, mesh));
  }
}

struct Guarded {
  Guarded() { ops::set_cuda_kernels(&test::guarded_kernels()); }
  ~Guarded() { ops::set_cuda_kernels(nullptr); }
};

}  // namespace

TEST_CASE_FIXTURE(Guarded, "one rank trains on a device as on the CPU") {
  check_on({});
}

TEST_CASE_FIXTURE(Guarded, "data-parallel ranks train on devices as on CPUs") {
  check_on({.dp_shard = 2});
  check_on({.dp_replicate = 2, .dp_shard = 2});
  MeshJob ddp = test::job_of(test::kTinyLlama, {.dp_shard = 2});
  ddp.options.unit.shard = false;
  check(ddp);
}

TEST_CASE_FIXTURE(Guarded, "tensor-parallel ranks train on devices as on CPUs") {
  check_on({.tp = 2});
  check_on({.tp = 2, .sequence_parallel = true});
  check_on({.tp = 2, .sequence_parallel = true, .async_tensor_parallel = true});
}

TEST_CASE_FIXTURE(Guarded, "context-parallel ranks train on devices as on CPUs, by every method, with packed rows") {
  check_on({.cp = 2});
  for (auto method : {ops::ContextMethod::kRing, ops::ContextMethod::kAllToAll})
    for (bool packed : {false, true}) {
      MeshJob job = test::job_of(test::kTinyLlama, {.cp = 2});
      job.context_method = method;
      job.packed = packed;
      check(job);
    }
}

TEST_CASE_FIXTURE(Guarded, "pipelines train on devices as on CPUs, with every kind of schedule") {
  check_on({.pp = 2});
  for (const char* schedule : {"GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"}) {
    MeshJob job = test::job_of(test::kTinyLlama, {.pp = 2});
    job.schedule = schedule;
    check(job);
  }
}

TEST_CASE_FIXTURE(Guarded, "expert-parallel ranks train on devices as on CPUs") {
  check_on({.dp_shard = 2, .ep = 2});
  check_on({.tp = 2, .ep = 2});
}

TEST_CASE_FIXTURE(Guarded, "ranks with several axes train on devices as on CPUs") {
  check(test::job_of(test::kTinyQwen3, {.pp = 2, .cp = 2, .tp = 2, .sequence_parallel = true}));
  check(test::job_of(test::kTinyMixtral, {.pp = 2, .dp_shard = 2, .tp = 2, .ep = 2}));
}

TEST_CASE_FIXTURE(Guarded, "dropout, recomputation, bf16 and packed rows give the CPU's bits on a device") {
  const std::string dropping = R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 32, "initializer_range": 0.2})";
  for (MeshSizes mesh : {MeshSizes{}, MeshSizes{.tp = 2, .sequence_parallel = true}, MeshSizes{.cp = 2}}) {
    MeshJob job = test::job_of(dropping, mesh);
    job.options.dropout_seed = 5;
    job.options.activation_checkpointing = true;
    job.options.recall = mesh.tp == 2 ? autograd::Recall::kSelected : autograd::Recall::kNothing;
    check(job);
  }
  for (const auto& [name, config] : test::tiny_models()) {
    MeshJob job = test::job_of(config, {.dp_shard = 2});
    job.options.unit.param_dtype = job.options.unit.reduce_dtype = DType::kBF16;
    job.packed = name != "gpt2";
    check(job);
  }
}

TEST_CASE_FIXTURE(Guarded, "an engine goes on from the state that another left on a device") {
  MeshJob job = test::job_of(test::kTinyLlama, {.dp_shard = 2});
  job.stop = 1;
  check(job);
}

TEST_CASE_FIXTURE(Guarded, "more microbatches than losses are kept for add up to the same loss") {
  MeshJob job = test::job_of(test::kTinyLlama, {});
  job.global_batch = 150;
  job.accumulation = 150;
  job.steps = 1;
  MeshTrace cpu = test::run_job(job);
  job.make_allocator = [] { return test::make_guarded_allocator(); };
  check_same(test::run_job(job), cpu);
}

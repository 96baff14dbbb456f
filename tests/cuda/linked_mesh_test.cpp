// Jobs on devices that talk to each other, over a stand-in for NCCL that sums in the canonical order: every bit is that
// of the CPU, whatever the mesh.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "comm/device_ranks.h"
#include "support/guarded_device.h"
#include "support/mesh_job.h"
#include "support/thread_link.h"
#include "support/tiny_models.h"

using namespace automodel;
using comm::Communicator;
using test::ThreadNetwork;

namespace {

struct Guarded {
  Guarded() { ops::set_cuda_kernels(&test::guarded_kernels()); }
  ~Guarded() { ops::set_cuda_kernels(nullptr); }
};

// The job on the CPU, and on devices that talk to each other.
void check_job(test::MeshJob job) {
  CAPTURE(job.mesh.text());
  CAPTURE(job.schedule);
  job.steps = 2;
  job.global_batch = 16;
  test::MeshTrace cpu = test::run_job(job);
  ThreadNetwork network;
  std::vector<std::unique_ptr<comm::DeviceLink>> links;
  for (int r = 0; r < job.mesh.size(); ++r) links.push_back(network.link(r, 0));
  job.make_allocator = [] { return test::make_guarded_allocator(); };
  job.connect = [&](Communicator& staged) {
    return comm::make_device_ranks(staged, *links[static_cast<size_t>(staged.rank())]);
  };
  test::check_identical(test::run_job(job), cpu);
  for (int r = 0; r < job.mesh.size(); ++r) {
    const std::vector<std::string> calls = network.calls(r);
    const auto of_lanes = [](const std::string& call) { return call.starts_with("exchange of 1 'lane "); };
    CHECK(calls.size() > 10);
    CHECK(std::ranges::any_of(calls, of_lanes) == (job.mesh.pp > 1));
  }
}

}  // namespace

TEST_CASE_FIXTURE(Guarded, "jobs whose devices talk to each other have the CPU's bits, on every kind of mesh") {
  using test::job_of;
  check_job(job_of(test::kTinyLlama, {.dp_shard = 3}));
  check_job(job_of(test::kTinyLlama, {.dp_replicate = 2, .dp_shard = 2}));
  check_job(job_of(test::kTinyLlama, {.tp = 2, .sequence_parallel = true}));
  check_job(job_of(test::kTinyLlama, {.tp = 2, .sequence_parallel = true, .async_tensor_parallel = true}));
  check_job(job_of(test::kTinyMixtral, {.dp_shard = 2, .ep = 2}));
  for (auto method : {ops::ContextMethod::kAllGather, ops::ContextMethod::kRing, ops::ContextMethod::kAllToAll}) {
    test::MeshJob job = job_of(test::kTinyLlama, {.cp = 2});
    job.context_method = method;
    check_job(job);
  }
  check_job(job_of(test::kTinyMixtral, {.pp = 2, .dp_shard = 2, .tp = 2, .ep = 2}));
}

TEST_CASE_FIXTURE(Guarded, "pipelines whose devices talk to each other have the CPU's bits, with every schedule") {
  for (const char* schedule : {"1F1B", "GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"}) {
    test::MeshJob job = test::job_of(test::kTinyLlama, {.pp = 2});
    job.schedule = schedule;
    check_job(job);
  }
  check_job(test::job_of(test::kTinyLlama, {.pp = 4}));
}

// Training by the CUDA kernels themselves, run by an emulator, in memory that the host cannot touch: everything of a
// step on a GPU but the GPU.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "ops/cuda/table.h"
#include "support/distance.h"
#include "support/guarded_device.h"
#include "support/mesh_job.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshTrace;

namespace {

// Few rows: an emulated thread takes a hundred times as long as a real one.
MeshJob small_job(const std::string& config) {
  MeshJob job = test::job_of(config, {});
  job.steps = 3;
  job.accumulation = 2;
  job.global_batch = 4;
  return job;
}

void check_near(MeshJob job, double tolerance) {
  MeshTrace cpu = test::run_job(job);
  job.make_allocator = [] { return test::make_guarded_allocator(); };
  MeshTrace emulated = test::run_job(job);
  for (size_t i = 0; i < cpu.losses.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(emulated.losses[i] / cpu.losses[i] - 1) < tolerance);
    CHECK(std::abs(emulated.norms[i] / cpu.norms[i] - 1) < 10 * tolerance);
  }
  REQUIRE(emulated.gradients.size() == cpu.gradients.size());
  for (const auto& [name, gradient] : cpu.gradients) {
    CAPTURE(name);
    CHECK(test::distance(emulated.gradients.at(name), gradient) < 10 * tolerance);
  }
}

struct Emulated {
  Emulated() {
    test::guard(ops::cuda::table());
    ops::set_cuda_kernels(&test::guarded_kernels());
  }
  ~Emulated() {
    ops::set_cuda_kernels(nullptr);
    test::guard(ops::cpu::table());
  }
};

}  // namespace

TEST_CASE_FIXTURE(Emulated, "the CUDA kernels train every kind of model as the CPU's do, in fp32") {
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    check_near(small_job(config), 1e-5);
  }
}

TEST_CASE_FIXTURE(Emulated, "the CUDA kernels train in bf16 as closely as it rounds") {
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    // Where a router's probabilities are nearly equal, one rounding decides between experts.
    if (name == "mixtral") continue;
    MeshJob job = small_job(config);
    job.options.unit.param_dtype = DType::kBF16;
    check_near(job, 1e-2);
  }
}

TEST_CASE_FIXTURE(Emulated, "the CUDA kernels train packed rows with recomputation and dropout") {
  MeshJob packed = small_job(test::kTinyLlama);
  packed.packed = true;
  packed.options.activation_checkpointing = true;
  check_near(packed, 1e-5);
  MeshJob dropping = small_job(R"({"model_type": "gpt2", "vocab_size": 53, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 32, "initializer_range": 0.2})");
  dropping.options.dropout_seed = 5;
  check_near(dropping, 1e-5);
}

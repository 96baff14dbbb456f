// On a real device, when there is one: its memory, and jobs on it against the CPU's.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/backend.h"
#include "support/distance.h"
#include "support/mesh_job.h"
#include "support/real_device.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::device_memory;
using test::has_device;
using test::MeshJob;
using test::MeshSizes;
using test::MeshTrace;

namespace {

MeshTrace on_device(MeshJob job) {
  job.make_allocator = device_memory;
  return test::run_job(job);
}

void check_near(const MeshTrace& device, const MeshTrace& cpu, double tolerance) {
  REQUIRE(device.losses.size() == cpu.losses.size());
  for (size_t i = 0; i < cpu.losses.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(device.losses[i] / cpu.losses[i] - 1) < tolerance);
    CHECK(std::abs(device.norms[i] / cpu.norms[i] - 1) < 10 * tolerance);
  }
  for (const auto& [name, gradient] : cpu.gradients) {
    CAPTURE(name);
    CHECK(test::distance(device.gradients.at(name), gradient) < 10 * tolerance);
  }
}

}  // namespace

TEST_CASE("the plugin opens without a driver, knows its libraries, and its errors are the program's") {
  bool usable = has_device();
  const cuda::Plugin* plugin = cuda::backend(true).plugin;
  REQUIRE(plugin != nullptr);
  REQUIRE(plugin->kernels() != nullptr);
  for (const cuda::LibraryVersion& library : plugin->find_libraries()) {
    CAPTURE(library.name);
    if (library.name == "CUDA runtime" || library.name == "cuBLASLt") CHECK_FALSE(library.version.empty());
  }
  CHECK_THROWS_AS(plugin->make_allocator(1000), Error);
  CHECK_THROWS_AS(plugin->describe_device(1000), Error);
  if (!usable) CHECK(cuda::backend().why_not.find("driver") != std::string::npos);
}

TEST_CASE("numbers of any count come back from a device as they went") {
  if (!has_device()) return;
  auto device = device_memory();
  for (int64_t count : {1, 7, 16384, 16385, 1'000'003, 5'000'000}) {
    std::vector<float> numbers(static_cast<size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0.5f);
    Tensor a = Tensor::empty({count}, DType::kF32, *device), b = Tensor::zeros({count}, DType::kF32, *device);
    upload(a, numbers);
    std::vector<float> sent = numbers;
    numbers.assign(numbers.size(), -1);  // upload has taken them
    copy(b, a);
    zero(a);
    CHECK(to_host<float>(b) == sent);
    CHECK(to_host<float>(a) == std::vector<float>(sent.size(), 0));
  }
  CHECK(device->stats().current_total == 0);
}

TEST_CASE("a device that has no more memory says so, and has it again afterwards") {
  if (!has_device()) return;
  auto device = device_memory();
  int64_t total = cuda::backend().plugin->describe_device(0).total_bytes;
  CHECK_THROWS_AS(Tensor::empty({2 * total}, DType::kU8, *device), Error);
  Tensor half = Tensor::empty({total / 3}, DType::kU8, *device);
  half = {};
  // Another size: what nobody uses is given back first.
  half = Tensor::empty({total / 2}, DType::kU8, *device);
  CHECK(half.defined());
}

TEST_CASE("models train on a device as on the CPU") {
  if (!has_device()) return;
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    MeshJob job = test::job_of(config, {});
    job.steps = 20;
    check_near(on_device(job), test::run_job(job), 1e-4);
    test::check_identical(on_device(job), on_device(job));
    job.options.unit.param_dtype = DType::kBF16;
    check_near(on_device(job), test::run_job(job), 2e-2);
  }
}

TEST_CASE("ranks that share a device train as one rank does") {
  if (!has_device()) return;
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    MeshTrace alone = on_device(test::job_of(config, {}));
    for (MeshSizes mesh : {MeshSizes{.dp_shard = 2}, MeshSizes{.tp = 2}, MeshSizes{.pp = 2}, MeshSizes{.cp = 2},
                           MeshSizes{.dp_shard = 2, .ep = 2}, MeshSizes{.pp = 2, .tp = 2}}) {
      if (mesh.ep > 1 && name != "mixtral") continue;
      CAPTURE(mesh.text());
      check_near(on_device(test::job_of(config, mesh)), alone, 1e-4);
    }
  }
}

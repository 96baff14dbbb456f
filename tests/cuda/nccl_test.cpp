// NCCL on a device, when there is one: every call with one rank, and between two processes, which NCCL takes for two
// machines (NCCL_HOSTID), as it wants a device for each rank of a machine.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "comm/device_ranks.h"
#include "comm/suite.h"
#include "comm/world.h"
#include "core/error.h"
#include "ops/device_memory.h"
#include "support/on_device.h"
#include "support/processes.h"
#include "support/real_device.h"

using namespace automodel;
using test::has_device;
using test::Outcome;

namespace {

std::filesystem::path own_file() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

// Of the bundle that the test lies in, else of the system.
std::string mpirun() {
  const std::filesystem::path bundled = own_file().parent_path() / "../../bin/mpirun";
  return std::filesystem::exists(bundled) ? bundled.string() : "mpirun";
}

// Two processes of tests/cuda/nccl_rank_test.cpp.
Outcome processes(const std::string& job) {
  return test::run_command("OMPI_MCA_plm=isolated OMP_NUM_THREADS=1 AUTOMODEL_NCCL_JOB=" + job + " timeout 300 " +
                           mpirun() +
                           " --allow-run-as-root --oversubscribe --bind-to none -n 2 sh -c '"
                           "NCCL_HOSTID=host$OMPI_COMM_WORLD_RANK NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 "
                           "NCCL_NET=Socket NCCL_MNNVL_ENABLE=0 exec " +
                           own_file().string() + " --no-skip --test-case=\"one process of a job\"'");
}

// False, and says so, where there is no NCCL.
bool has_nccl() {
  if (!has_device()) return false;
  auto memory = test::device_memory();
  std::string why_not;
  if (cuda::backend().plugin->make_link(0, why_not) != nullptr) return true;
  MESSAGE("skipped: " << why_not);
  return false;
}

bool has_mpirun() {
  if (test::run_command(mpirun() + " --version").code == 0) return true;
  MESSAGE("skipped: there is no mpirun");
  return false;
}

}  // namespace

TEST_CASE("NCCL is found or missing with a reason; without a driver its errors are the program's") {
  const bool usable = has_device();
  const cuda::Plugin* plugin = cuda::backend(true).plugin;
  REQUIRE(plugin != nullptr);
  std::string why_not;
  auto link = plugin->make_link(0, why_not);
  std::string version;
  for (const cuda::LibraryVersion& library : plugin->find_libraries())
    if (library.name == "NCCL") version = library.version;
  CAPTURE(why_not);
  if (link == nullptr) {
    CHECK_FALSE(why_not.empty());
  } else {
    CHECK_FALSE(version.empty());
    CHECK(why_not.empty());
    CHECK(link->device() == Device{Device::Kind::kCuda, 0});
    if (!usable) CHECK_THROWS_AS(link->mark_compute(), Error);
    if (!usable) CHECK_THROWS_AS(link->join({}, 0, 1, "world"), Error);
  }
}

TEST_CASE("NCCL with one rank makes every call") {
  if (!has_nccl()) return;
  comm::World world = comm::World::single();
  auto memory = test::device_memory();
  auto staging = ops::make_device_memory(*memory);
  auto staged = comm::make_staged(world.global(), *staging);
  std::string why_not;
  auto link = cuda::backend().plugin->make_link(0, why_not);
  auto ranks = comm::make_device_ranks(*staged, *link);
  auto here = test::make_on_device(*ranks, *memory);
  test::check_collectives(*here);
  test::check_point_to_point(*here);
  test::check_asynchrony(*here);
  test::check_groups(*here);
}

TEST_CASE("two processes talk over NCCL though they share a device") {
  if (!has_nccl() || !has_mpirun()) return;
  const Outcome run = processes("suite");
  INFO(run.output);
  CHECK(run.code == 0);
}

TEST_CASE("a process that waits for another on its device ends the job after the deadline") {
  if (!has_nccl() || !has_mpirun()) return;
  const Outcome run = processes("hang");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.seconds < 60);
  CHECK(run.has("all_reduce of 1000 x float32 on 'world' (rank 0 of 2) between devices"));
}

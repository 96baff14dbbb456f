// The suite of tests/comm/suite.h under mpirun, faults on demand, and a benchmark. Not a doctest program: a breach on
// one rank has to end them all.
//   comm_mpi suite            every check, with whole messages and again with messages cut into small pieces
//   comm_mpi throw R          rank R throws while the others wait in an all_reduce
//   comm_mpi throw-all        every rank throws
//   comm_mpi kill R           rank R is killed by SIGKILL
//   comm_mpi hang R           rank R never comes; the deadline is 1 s
//   comm_mpi mismatch         rank 0 calls another collective; the deadline is 1 s
//   comm_mpi unwind R         rank R leaves the world by an exception
//   comm_mpi wait             all ranks wait 3 s for rank 0; prints their CPU seconds
//   comm_mpi bench            times of collectives
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "comm/suite.h"
#include "comm/world.h"
#include "core/error.h"

using namespace automodel;
using comm::Reduce;

namespace {

void suite(comm::World& world) {
  test::check_collectives(world.global());
  test::check_point_to_point(world.global());
  test::check_asynchrony(world.global());
  test::check_groups(world.global());
  auto nested = world.global().split(world.rank() % 2, world.rank(), "nested");
  test::check_collectives(*nested);
  const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  AM_CHECK(here == nullptr || world.local_size() == std::atoi(here), Fault::kBug,
           "{} ranks are on this machine, not {}", world.local_size(), here == nullptr ? "?" : here);
}

void bench_size(comm::World& world, int64_t bytes) {
  const int n = world.size();
  const int64_t count = bytes / 4 / n * n;
  std::vector<float> whole(static_cast<size_t>(count), 1.0f), part(static_cast<size_t>(count / n), 1.0f);
  const auto best_ms = [&](const std::function<void()>& call) {
    double best = 1e9;
    for (int i = 0; i < (bytes < (1 << 20) ? 200 : 12); ++i) {
      world.global().barrier();
      const auto start = std::chrono::steady_clock::now();
      call();
      const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      best = std::min(best, world.global().reduced(ms, Reduce::kMax));
    }
    return best;
  };
  comm::Communicator& c = world.global();
  const double gather = best_ms([&] { c.all_gather(comm::buffer_of(whole), comm::buffer_of(std::as_const(part))); });
  const double reduce = best_ms([&] { c.all_reduce(comm::buffer_of(whole), Reduce::kSum); });
  const double scatter =
      best_ms([&] { c.reduce_scatter(comm::buffer_of(part), comm::buffer_of(std::as_const(whole)), Reduce::kSum); });
  if (world.is_main()) {
    std::printf("%10lld bytes, %d ranks: all_gather %.3f ms, all_reduce %.3f ms, reduce_scatter %.3f ms\n",
                static_cast<long long>(bytes), n, gather, reduce, scatter);
  }
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void wait_for_main(comm::World& world) {
  const double before = cpu_seconds();
  if (world.is_main()) std::this_thread::sleep_for(std::chrono::seconds(3));
  std::vector<float> data(1 << 20);
  world.global().all_reduce(comm::buffer_of(data), Reduce::kSum);
  const double spent = world.global().reduced(cpu_seconds() - before, Reduce::kMax);
  if (world.is_main()) std::printf("cpu %.3f\n", spent);
}

void faulty(comm::World& world, const std::string& mode, int rank) {
  const bool chosen = world.rank() == rank;
  if (mode == "throw-all" || (mode == "throw" && chosen))
    fail(Fault::kData, "the data of rank {} are gone", world.rank());
  if (mode == "kill" && chosen) std::raise(SIGKILL);
  if (mode == "hang" && chosen) std::this_thread::sleep_for(std::chrono::seconds(60));
  if (mode == "mismatch" && world.is_main()) world.global().barrier();
  std::vector<float> data(1 << 20);
  world.global().all_reduce(comm::buffer_of(data), Reduce::kSum);
  std::this_thread::sleep_for(std::chrono::seconds(60));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "suite";
  const int rank = argc > 2 ? std::atoi(argv[2]) : 0;
  comm::MpiOptions options;
  options.deadline = std::chrono::seconds(mode == "hang" || mode == "mismatch" ? 1 : 60);
  if (mode == "suite" && argc > 2) options.max_message_bytes = std::atoi(argv[2]);
  comm::World world = comm::World::mpi(options);
  try {
    if (mode == "unwind" && world.rank() == rank) {
      comm::World dying = std::move(world);
      fail(Fault::kBug, "nobody catches this in the world");
    }
    if (mode == "suite") {
      suite(world);
    } else if (mode == "bench") {
      for (int64_t bytes : {int64_t{8}, int64_t{32} << 10, int64_t{1} << 20, int64_t{16} << 20, int64_t{128} << 20}) {
        bench_size(world, bytes);
      }
    } else if (mode == "wait") {
      wait_for_main(world);
    } else {
      faulty(world, mode, rank);
    }
  } catch (const std::exception& e) {
    world.abort(e.what());
    return 1;
  }
  return 0;
}

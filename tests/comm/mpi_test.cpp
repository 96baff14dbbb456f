// The mpi backend under the real mpirun: the suite on 2, 3 and 4 processes, and what happens when a rank fails.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "support/processes.h"

using namespace automodel;
using test::Outcome;

namespace {

Outcome mpirun(int ranks, const std::string& arguments) {
  return test::run_command(
      "OMPI_MCA_plm=isolated OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n " +
      std::to_string(ranks) + " " COMM_MPI " " + arguments);
}

bool no_orphans() {
  return test::no_orphans(COMM_MPI);
}

}  // namespace

TEST_CASE("2, 3 and 4 processes pass the checks of every backend") {
  for (int ranks : {2, 3, 4}) {
    const Outcome run = mpirun(ranks, "suite");
    INFO(run.output);
    CHECK(run.code == 0);
    CHECK(run.output.empty());
  }
}

TEST_CASE("messages cut into pieces give the same results") {
  const Outcome run = mpirun(3, "suite 4097");
  INFO(run.output);
  CHECK(run.code == 0);
}

TEST_CASE("a process that throws ends the job with its message, printed once") {
  const Outcome run = mpirun(4, "throw 2");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.seconds < 10);
  CHECK(run.count("rank 2 failed: the data of rank 2 are gone\n") == 1);
  CHECK(run.count(" failed: ") == 1);
  CHECK(no_orphans());
}

TEST_CASE("when every process throws, one speaks") {
  const Outcome run = mpirun(3, "throw-all");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.count("rank 0 failed: ") == 1);
}

TEST_CASE("a process that is killed ends the job") {
  const Outcome run = mpirun(3, "kill 1");
  INFO(run.output);
  CHECK(run.code != 0);
  CHECK(run.seconds < 15);
  CHECK(no_orphans());
}

TEST_CASE("a process that hangs is named after the deadline") {
  const Outcome run = mpirun(3, "hang 2");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.seconds < 15);
  CHECK(run.count("all_reduce of") >= 1);
  CHECK(run.count("still missing: rank 2;") >= 1);
  CHECK(no_orphans());
}

TEST_CASE("processes that call different things do not wait for ever") {
  const Outcome run = mpirun(2, "mismatch");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.seconds < 15);
}

TEST_CASE("a world left by an exception ends the job") {
  const Outcome run = mpirun(2, "unwind 1");
  INFO(run.output);
  CHECK(run.code == 1);
  CHECK(run.count("rank 1 failed: an exception left the run") == 1);
}

TEST_CASE("waiting processes leave their cores to others") {
  const Outcome run = mpirun(3, "wait");
  INFO(run.output);
  REQUIRE(run.code == 0);
  double cpu = 100;
  REQUIRE(std::sscanf(run.output.c_str(), "cpu %lf", &cpu) == 1);
  CHECK(cpu < 1.0);  // of 3 s; spinning would take all of them
}

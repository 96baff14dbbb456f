// Real jobs of four processes in which one fails in the middle of a collective: all of them end soon, with exit code 1
// and a message that names the rank, its place in the mesh and what the others waited for.
#include <doctest/doctest.h>

#include <string>

#include "support/processes.h"

using namespace automodel;
using test::Outcome;

namespace {

const char* const kCalls[] = {"barrier",   "all_reduce", "all_gather", "reduce_scatter",
                              "broadcast", "all_to_all", "exchange"};

Outcome job(const std::string& arguments, const std::string& environment = "") {
  return test::run_command(environment + " OMP_NUM_THREADS=1 " FAULTS_JOB " " + arguments);
}

bool no_orphans(int tenths = 20) {
  return test::no_orphans(FAULTS_JOB, tenths);
}

std::string name_of(int rank) {
  return "rank " + std::to_string(rank) + " [pp " + std::to_string(rank / 2) + ", tp " + std::to_string(rank % 2) + "]";
}

// The job starts in about a second, and the fault strikes half a second later.
void check_ended(const Outcome& outcome) {
  INFO(outcome.output);
  CHECK(outcome.code == 1);
  CHECK(outcome.seconds < 10);
  CHECK(no_orphans());
}

}  // namespace

TEST_CASE("a rank killed in the middle of a collective ends the job, and the others say what they waited for") {
  int rank = 0;
  for (const std::string call : kCalls) {
    CAPTURE(call);
    rank = (rank + 1) % 4;
    const Outcome outcome = job(call + " kill " + std::to_string(rank) + " 60000");
    check_ended(outcome);
    INFO(outcome.output);
    CHECK(outcome.has("process rank " + std::to_string(rank)));  // mpirun's word
    CHECK(outcome.has("still missing: " + name_of(rank)));
    CHECK(outcome.has(" ms for " + call + " of "));
    CHECK((outcome.has("on 'tp' (rank ") || outcome.has("on 'pp' (rank ")));
  }
}

TEST_CASE("a rank that stops answering is named after the deadline") {
  int rank = 3;
  for (const std::string call : kCalls) {
    CAPTURE(call);
    rank = (rank + 1) % 4;
    const Outcome outcome = job(call + " stop " + std::to_string(rank) + " 1000");
    check_ended(outcome);
    INFO(outcome.output);
    CHECK(outcome.has(" failed: [pp "));
    CHECK(outcome.has("still missing: " + name_of(rank)));
    CHECK(outcome.has(" ms for " + call + " of "));
    CHECK(outcome.has("did a peer hang, or call something else?"));
  }
}

TEST_CASE("a rank that throws ends the job with its message, its rank and its place") {
  for (int rank : {0, 3}) {
    const Outcome outcome = job("all_reduce throw " + std::to_string(rank) + " 60000");
    check_ended(outcome);
    INFO(outcome.output);
    CHECK(outcome.has("rank " + std::to_string(rank) + " failed: [pp " + std::to_string(rank / 2) + ", tp " +
                      std::to_string(rank % 2) + "] the data of rank " + std::to_string(rank) + " are gone"));
    CHECK(outcome.output.find(" failed: ") == outcome.output.rfind(" failed: "));
    CHECK(outcome.has("still missing: "));
  }
}

TEST_CASE("a rank that leaves early is missed by the others, and so are they by it") {
  const Outcome outcome = job("all_gather leave 2 1000");
  check_ended(outcome);
  INFO(outcome.output);
  CHECK(outcome.has(" failed: "));
  CHECK((outcome.has("still missing: " + name_of(2)) || outcome.has("finished, but other ranks did not")));
}

TEST_CASE("ranks that are joined by sockets, as on two machines, end as well") {
  for (const std::string fault : {"kill", "stop", "throw"}) {
    CAPTURE(fault);
    check_ended(job("all_reduce " + fault + " 1 " + (fault == "stop" ? "1000" : "60000"), "OMPI_MCA_btl=tcp,self"));
  }
}

TEST_CASE("no rank survives its launcher or mpirun") {
  for (const std::string fault : {"launcher", "mpirun"}) {
    CAPTURE(fault);
    const Outcome outcome = job("all_reduce " + fault + " 1 60000");
    INFO(outcome.output);
    CHECK(outcome.code != 0);
    CHECK(no_orphans(100));
  }
}

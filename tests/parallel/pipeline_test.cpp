#include "parallel/pipeline.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <string>

#include "chain.h"
#include "comm/planning.h"
#include "comm/world.h"
#include "parallel/timeline.h"
#include "support/rendezvous.h"
#include "support/run_mesh.h"

using namespace automodel;
using namespace automodel::parallel;
using test::Chain;
using test::ChainOptions;
using test::ChainReference;

namespace {

const char* const kAll[] = {"1F1B",          "GPipe",    "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble",
                            "ZBVZeroBubble", "DualPipeV"};

// Microbatches out of order, in another order on each stage, and stages that lie on the ranks as nobody else puts them.
const char* const kCsv =
    "0F2,0F0,0F1,2F1,2F0,2F2,2I2,2B0,2B1,2W2,0B1,0I2,0B0,0W2\n"
    "1F0,1F1,1F2,,1B2,1I1,1B0,1W1\n";

Schedule schedule_of(const std::string& name, int ranks, int microbatches) {
  if (name == "CSV") return parse_schedule(kCsv, "csv", 2);
  return make_schedule({name, ranks, is_single_stage(name) ? ranks : 2 * ranks, microbatches});
}

// What every rank of a run must have done, and the numbers that come out, exactly.
void check_rank(const Schedule& schedule, int rank, const Chain& chain, const ChainReference& reference) {
  const auto& row = schedule.ranks[static_cast<size_t>(rank)];
  REQUIRE(chain.done == row);
  std::map<int, std::array<float, 2>> expected;
  std::map<int, std::vector<int>> order;
  for (const Action& a : row) {
    if (a.work != Work::kBackward && a.work != Work::kWeight) continue;
    const auto& gradient = reference.gradients.at({a.stage, a.microbatch});
    for (size_t i = 0; i < 2; ++i) expected[a.stage][i] += gradient[i];
    order[a.stage].push_back(a.microbatch);
  }
  REQUIRE(chain.gradients == expected);
  REQUIRE(chain.order == order);
  for (const auto& [microbatch, y] : chain.outputs) REQUIRE(y == reference.outputs[static_cast<size_t>(microbatch)]);
  const bool has_last =
      std::any_of(row.begin(), row.end(), [&](const Action& a) { return a.stage + 1 == schedule.stages; });
  REQUIRE(chain.outputs.size() == static_cast<size_t>(has_last ? schedule.microbatches : 0));
}

// The schedules of `ranks` ranks, up to 8 stages and 16 microbatches.
std::vector<Schedule> all_schedules(int ranks) {
  std::vector<Schedule> out;
  for (const char* name : kAll)
    for (int stages = ranks; stages <= std::max(8, 2 * ranks); stages += ranks)
      for (int microbatches = 1; microbatches <= 16; ++microbatches)
        if (refusal({name, ranks, stages, microbatches}).empty())
          out.push_back(make_schedule({name, ranks, stages, microbatches}));
  if (ranks == 2) out.push_back(schedule_of("CSV", 2, 3));
  return out;
}

}  // namespace

TEST_CASE("every schedule gives the numbers of one rank and cannot hang, even where sends wait for their receives") {
  int runs = 0;
  for (int ranks = 1; ranks <= 8; ++ranks) {
    const std::vector<Schedule> schedules = all_schedules(ranks);
    std::vector<std::vector<std::unique_ptr<comm::Communicator>>> communicators;
    for (size_t i = 0; i < schedules.size(); ++i) communicators.push_back(test::make_rendezvous(ranks));
    test::run_mesh(ranks, [&](comm::World& world) {
      auto allocator = make_cpu_allocator();
      for (size_t i = 0; i < schedules.size(); ++i) {
        const Schedule& schedule = schedules[i];
        CAPTURE(schedule.name);
        CAPTURE(schedule.stages);
        CAPTURE(schedule.microbatches);
        const ChainReference reference(schedule.stages, schedule.microbatches);
        Chain chain(schedule.stages, *allocator);
        const int ahead = static_cast<int>(i % 3);
        run_pipeline(schedule, *communicators[i][static_cast<size_t>(world.rank())], chain.calls(), {ahead});
        check_rank(schedule, world.rank(), chain, reference);
      }
    });
    runs += static_cast<int>(schedules.size());
  }
  CHECK(runs > 900);
}

TEST_CASE("gradients are added in ascending order of microbatches, but descending by LoopedBFS") {
  for (const char* name : kAll) {
    CAPTURE(name);
    const Schedule schedule = schedule_of(name, 2, 6);
    std::vector<int> expected(6);
    std::iota(expected.begin(), expected.end(), 0);
    if (schedule.name == "LoopedBFS") std::reverse(expected.begin(), expected.end());
    test::run_mesh(2, [&](comm::World& world) {
      auto allocator = make_cpu_allocator();
      Chain chain(schedule.stages, *allocator);
      run_pipeline(schedule, world.global(), chain.calls());
      for (const auto& [stage, order] : chain.order) CHECK(order == expected);
    });
  }
}

TEST_CASE("no more microbatches are alive than promised, and a plan sees the same memory and messages as a run") {
  for (const std::string name : {"1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble",
                                 "ZBVZeroBubble", "DualPipeV", "CSV"}) {
    CAPTURE(name);
    const int ranks = name == "CSV" ? 2 : 4;
    const Schedule schedule = schedule_of(name, ranks, 8);
    const Timeline timeline = play(schedule);
    test::run_mesh(ranks, [&](comm::World& world) {
      const auto rank = static_cast<size_t>(world.rank());
      using Records = std::vector<std::tuple<comm::Call, int64_t, int>>;
      auto into = [](Records& records) {
        return [&records](const comm::CallRecord& r) { records.emplace_back(r.call, r.bytes, r.peer); };
      };
      auto run = [&](comm::Communicator& pp, Allocator& allocator) {
        Chain chain(schedule.stages, allocator);
        run_pipeline(schedule, pp, chain.calls());
        CHECK(chain.peak_alive == timeline.peak_alive[rank]);
        CHECK(allocator.stats().current_total == 0);
        return allocator.stats().peak_total / static_cast<int64_t>(sizeof(test::Row));
      };
      Records real, planned;
      world.observe(into(real));
      auto memory = make_cpu_allocator(), meta = make_meta_allocator();
      const int64_t rows = run(world.global(), *memory);
      auto planning = comm::make_planning(world.rank(), ranks, into(planned));
      CHECK(run(*planning, *meta) == rows);
      CHECK(real == planned);
      // Each microbatch has two tensors at most; one receive is ahead, one send on its way, one result in the making.
      if (name != "CSV") CHECK(rows <= 2 * timeline.peak_alive[rank] + 3);
    });
  }
}

TEST_CASE("a stage that throws ends all ranks with its error") {
  for (const char* name : kAll) {
    CAPTURE(name);
    const Schedule schedule = schedule_of(name, 4, 6);
    for (int rank = 0; rank < 4; ++rank) {
      const auto& row = schedule.ranks[static_cast<size_t>(rank)];
      const Action fails = row[row.size() / 2];
      std::string message;
      std::atomic<int> ended{0};
      try {
        test::run_mesh(4, [&](comm::World& world) {
          auto allocator = make_cpu_allocator();
          Chain chain(schedule.stages, *allocator, {.fails = fails});
          try {
            run_pipeline(schedule, world.global(), chain.calls());
          } catch (const Error&) {
            ++ended;
            throw;
          }
        });
      } catch (const Error& error) {
        message = error.what();
      }
      CHECK(message == "the work " + to_string(fails) + " went wrong");
      CHECK(ended >= 1);  // ranks that wait for nothing from it may be done
    }
  }
}

TEST_CASE("a stage that forgets its result, and a schedule for other ranks, are told") {
  auto complaint = [](const Schedule& schedule, bool forgets) {
    auto allocator = make_cpu_allocator();
    Chain chain(schedule.stages, *allocator);
    StageCalls calls = chain.calls();
    if (forgets) calls.forward = [](int, int, Tensor) { return Tensor(); };
    try {
      run_pipeline(schedule, comm::World::single().global(), calls);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(complaint(make_schedule({"1F1B", 2, 2, 2}), false) ==
        "pipeline: the schedule 1F1B is for 2 ranks, 'world' has 1");
  CHECK(complaint(make_schedule({"LoopedBFS", 1, 2, 2}), true) == "pipeline: 0F0 returned no contiguous tensor");
}

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "distributed/pipeline_config.h"
#include "parallel/schedule.h"
#include "parallel/timeline.h"

using namespace automodel;
using namespace automodel::parallel;

namespace {

std::string text(const std::vector<Action>& row) {
  std::string out;
  for (const Action& a : row) out += (out.empty() ? "" : " ") + to_string(a);
  return out;
}

const char* const kAll[] = {"1F1B",          "GPipe",    "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble",
                            "ZBVZeroBubble", "DualPipeV"};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("1F1B, GPipe and Interleaved1F1B order their work as published") {
  Schedule s = make_schedule({"1F1B", 2, 2, 4});
  CHECK(text(s.ranks[0]) == "0F0 0F1 0B0 0F2 0B1 0F3 0B2 0B3");
  CHECK(text(s.ranks[1]) == "1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3");
  s = make_schedule({"GPipe", 2, 2, 2});
  CHECK(text(s.ranks[1]) == "1F0 1F1 1B0 1B1");
  s = make_schedule({"Interleaved1F1B", 2, 4, 4});
  CHECK(text(s.ranks[0]) == "0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3");
  CHECK(text(s.ranks[1]) == "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3");
  s = make_schedule({"LoopedBFS", 2, 4, 2});
  CHECK(text(s.ranks[0]) == "0F0 0F1 2F0 2F1 2B1 2B0 0B1 0B0");
}

TEST_CASE("every schedule that is not refused runs, whatever the ranks, stages and microbatches") {
  int made = 0;
  for (const char* name : kAll)
    for (int ranks = 1; ranks <= 8; ++ranks)
      for (int local = 1; local <= 4; ++local)
        for (int microbatches = 1; microbatches <= 24; ++microbatches) {
          ScheduleRequest request{name, ranks, ranks * local, microbatches};
          if (!refusal(request).empty()) continue;
          CAPTURE(name);
          CAPTURE(ranks);
          CAPTURE(local);
          CAPTURE(microbatches);
          Schedule schedule = make_schedule(request);
          ++made;
          REQUIRE(fault_of(schedule) == "");
          auto places = place_stages(name, ranks, ranks * local);
          for (int r = 0; r < ranks; ++r)
            for (const Action& a : schedule.ranks[static_cast<size_t>(r)])
              REQUIRE(std::ranges::count(places[static_cast<size_t>(r)], a.stage) == 1);
        }
  CHECK(made > 1500);
}

TEST_CASE("microbatches are fewer alive and bubbles smaller where the schedule promises it") {
  constexpr int kRanks = 4, kMicrobatches = 16;
  Timeline gpipe = play(make_schedule({"GPipe", kRanks, kRanks, kMicrobatches}));
  Timeline one = play(make_schedule({"1F1B", kRanks, kRanks, kMicrobatches}));
  for (int r = 0; r < kRanks; ++r) {
    CHECK(gpipe.peak_alive[static_cast<size_t>(r)] == kMicrobatches);
    CHECK(one.peak_alive[static_cast<size_t>(r)] == kRanks - r);
  }
  // (P - 1) / (M + P - 1) of the time, for both.
  double expected = (kRanks - 1.0) / (kMicrobatches + kRanks - 1.0);
  CHECK(gpipe.bubble() == doctest::Approx(expected));
  CHECK(one.bubble() == doctest::Approx(expected));
  Timeline interleaved = play(make_schedule({"Interleaved1F1B", kRanks, 2 * kRanks, kMicrobatches}));
  CHECK(interleaved.bubble() == doctest::Approx((kRanks - 1.0) / (2 * kMicrobatches + kRanks - 1.0)));
  Timeline halves = play(make_schedule({"InterleavedZeroBubble", kRanks, 2 * kRanks, kMicrobatches}));
  CHECK(halves.bubble() < interleaved.bubble());
  Timeline v = play(make_schedule({"ZBVZeroBubble", kRanks, 2 * kRanks, kMicrobatches}));
  CHECK(v.bubble() <= halves.bubble());
  // ZB-V holds no more than 1F1B's first rank does, on every rank: 2 * ranks half stages.
  for (int alive : v.peak_alive) CHECK(alive <= 2 * kRanks);
  Timeline dual = play(make_schedule({"DualPipeV", kRanks, 2 * kRanks, kMicrobatches}));
  CHECK(dual.bubble() < interleaved.bubble());
  for (int alive : dual.peak_alive) CHECK(alive <= 2 * kRanks + 1);
}

TEST_CASE("stages lie on ranks in a loop or in a V") {
  CHECK(place_stages("Interleaved1F1B", 4, 8) == std::vector<std::vector<int>>{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(place_stages("ZBVZeroBubble", 4, 8) == std::vector<std::vector<int>>{{0, 7}, {1, 6}, {2, 5}, {3, 4}});
  CHECK(place_stages("1F1B", 3, 3) == std::vector<std::vector<int>>{{0}, {1}, {2}});
}

TEST_CASE("what cannot be scheduled is refused with the numbers") {
  CHECK(refusal({"1F1B", 2, 4, 8}).find("one stage a rank, not 2") != std::string::npos);
  CHECK(refusal({"Interleaved1F1B", 4, 4, 8}).find("use 8 stages") != std::string::npos);
  CHECK(refusal({"Interleaved1F1B", 2, 4, 5}).find("use 4 or 6 microbatches") != std::string::npos);
  CHECK(refusal({"ZBVZeroBubble", 2, 6, 4}).find("two stages a rank, not 3") != std::string::npos);
  CHECK(refusal({"GPipe", 2, 3, 4}).find("3 stages") != std::string::npos);
  CHECK(refusal({"Chimera", 2, 2, 4}) != "");
  CHECK(refusal({"1F1B", 4, 4, 2}) == "");  // a bubble, but right
}

TEST_CASE("every canonical name makes a schedule") {
  for (const std::string& name : distributed::schedule_names())
    CHECK(refusal({name, 2, is_single_stage(name) ? 2 : 4, 4}) == "");
}

TEST_CASE("a schedule can be written by hand, and its mistakes are found at their place") {
  Schedule s = parse_schedule("0F0,0F1,,0B0,0B1\n,1F0, 1I0 ,1F1,1B1,1W0\n", "mine.csv", 2);
  CHECK(s.stages == 2);
  CHECK(s.microbatches == 2);
  CHECK(text(s.ranks[1]) == "1F0 1I0 1F1 1B1 1W0");
  for (const char* name : kAll) {
    Schedule made = make_schedule({name, 2, is_single_stage(name) ? 2 : 4, 4});
    std::string csv;
    for (const auto& row : made.ranks) {
      for (const Action& a : row) csv += to_string(a) + ",";
      csv += "\n";
    }
    CHECK(parse_schedule(csv, "csv", 2).ranks == made.ranks);
  }
  auto complaint = [](const char* csv) { return message_of([&] { parse_schedule(csv, "mine.csv", 2); }); };
  CHECK(complaint("0F0,0X0,0B0\n1F0,1B0\n").starts_with("mine.csv:1:5: \"0X0\" is no action"));
  CHECK(complaint("0F0,0B0\n").find("1 lines for 2 pipeline ranks") != std::string::npos);
  CHECK(complaint("0F0,0B0\n1F0\n").find("the backward of microbatch 0 on stage 1") != std::string::npos);
  CHECK(complaint("0F0,0B0\n1F0,1B0,1F0\n").find("1F0 is there twice") != std::string::npos);
  CHECK(complaint("0F0,0B0\n1B0,1F0\n").find("for ever: rank 0 at 0B0, rank 1 at 1B0") != std::string::npos);
  CHECK(complaint("0F0,0B0,1F0\n1B0\n").find("stage 1 is on rank 0 and on rank 1") != std::string::npos);
}

TEST_CASE("a timeline is drawn with one line per rank") {
  Timeline t = play(make_schedule({"1F1B", 2, 2, 2}));
  CHECK(t.length == 9);
  CHECK(draw(t, 80) == "01..aa.bb\n.0aa1bb..\n");
}

#include "train/step_scheduler.h"

#include <doctest/doctest.h>

#include <csignal>

#include "config/config.h"
#include "core/error.h"

using namespace automodel;
using namespace automodel::train;

namespace {

StepSchedulerConfig config_of(int64_t global, int64_t local) {
  StepSchedulerConfig c;
  c.global_batch_size = global;
  c.local_batch_size = local;
  return c;
}

std::vector<int64_t> steps_with(const StepScheduler& s, bool StepScheduler::Decision::*what) {
  std::vector<int64_t> steps;
  for (int64_t step = 0; step < s.total_steps(); ++step) {
    if (s.decide(step, step / *s.steps_per_epoch(), false).*what) steps.push_back(step);
  }
  return steps;
}

}  // namespace

TEST_CASE("Microbatches of an update are the global batch over what the ranks take at once") {
  CHECK(accumulation_steps(64, 4, 4) == 4);
  CHECK(accumulation_steps(48, 4, 8) == std::nullopt);
  CHECK(accumulation_steps(32, 4, 8) == 1);
  CHECK(accumulation_steps(16, 4, 8) == std::nullopt);
  CHECK(valid_global_batches(48, 4, 8) == std::vector<int64_t>{32, 64});
  CHECK(valid_global_batches(60, 4, 8) == std::vector<int64_t>{64, 32});
  CHECK(valid_global_batches(10, 4, 8) == std::vector<int64_t>{32});
  CHECK_THROWS_WITH_AS(StepScheduler(config_of(48, 4), {8, 100}), doctest::Contains("48"), Error);
}

TEST_CASE("The last group of an epoch may be short and is still an update") {
  const StepScheduler s(config_of(64, 4), {4, 63});
  CHECK(s.accumulation() == 4);
  CHECK(s.steps_per_epoch() == 16);
  CHECK(s.microbatches(0) == 4);
  CHECK(s.microbatches(14) == 4);
  CHECK(s.microbatches(15) == 3);
  CHECK(s.microbatches(31) == 3);
  const StepScheduler pipelined(config_of(64, 4), {4, 62});
  CHECK(pipelined.steps_per_epoch() == 16);
  CHECK(pipelined.microbatches(15) == 2);
  const StepScheduler even(config_of(64, 4), {4, 64});
  CHECK(even.microbatches(15) == 4);
}

TEST_CASE("Checkpoints and validations fall where the reference has them") {
  StepSchedulerConfig c = config_of(1, 1);
  c.num_epochs = 2;
  c.max_steps = 8;
  c.ckpt_every_steps = 3;
  c.val_every_steps = 4;
  const StepScheduler s(c, {1, 5});
  CHECK(s.total_steps() == 8);
  CHECK(steps_with(s, &StepScheduler::Decision::checkpoint) == std::vector<int64_t>{2, 4, 5, 7});
  CHECK(steps_with(s, &StepScheduler::Decision::validate) == std::vector<int64_t>{2, 3, 4, 5, 7});
  CHECK(steps_with(s, &StepScheduler::Decision::last_batch) == std::vector<int64_t>{4});
  CHECK(steps_with(s, &StepScheduler::Decision::last_step) == std::vector<int64_t>{7});
  CHECK(s.state_after(4, 0) == StepScheduler::State{5, 0});
  CHECK(s.state_after(7, 1) == StepScheduler::State{8, 1});
  CHECK(s.finished({8, 1}));
  CHECK(!s.finished({7, 1}));
}

TEST_CASE("A run ends with its last epoch or its last step, whichever comes first") {
  StepSchedulerConfig c = config_of(1, 1);
  c.num_epochs = 2;
  c.max_steps = 100;
  const StepScheduler by_epochs(c, {1, 5});
  CHECK(by_epochs.total_steps() == 10);
  CHECK(by_epochs.decide(9, 1, false).last_step);
  CHECK(!by_epochs.decide(4, 0, false).last_step);
  c.num_epochs = std::nullopt;
  const StepScheduler by_steps(c, {1, 7});
  CHECK(by_steps.num_epochs() == 15);
  CHECK(by_steps.total_steps() == 100);
  c.max_steps = std::nullopt;
  CHECK(StepScheduler(c, {1, 7}).max_steps() == 70);
  c.num_epochs = 3;
  c.ckpt_every_steps = std::nullopt;
  c.save_checkpoint_every_epoch = false;
  const StepScheduler per_epoch(c, {1, 7});
  CHECK(steps_with(per_epoch, &StepScheduler::Decision::checkpoint) == std::vector<int64_t>{6, 13, 20});
  CHECK(steps_with(per_epoch, &StepScheduler::Decision::validate) == std::vector<int64_t>{6, 13, 20});
}

TEST_CASE("A stream needs max_steps and has no epochs") {
  StepSchedulerConfig c = config_of(8, 2);
  CHECK_THROWS_AS(StepScheduler(c, {2, std::nullopt}), Error);
  c.max_steps = 9;
  c.ckpt_every_steps = std::nullopt;
  const StepScheduler s(c, {2, std::nullopt});
  CHECK(!s.steps_per_epoch());
  CHECK(s.total_steps() == 9);
  CHECK(s.microbatches(8) == 2);
  CHECK(s.decide(3, 0, false).checkpoint);
  CHECK(!s.decide(4, 0, false).checkpoint);
  CHECK(s.decide(8, 0, false).last_step);
}

TEST_CASE("A signal saves at once and validates nothing") {
  StepSchedulerConfig c = config_of(1, 1);
  c.max_steps = 100;
  const StepScheduler s(c, {1, 50});
  CHECK(!s.decide(10, 0, false).checkpoint);
  CHECK(s.decide(10, 0, true).checkpoint);
  CHECK(!s.decide(10, 0, true).validate);
  CHECK(!s.decide(99, 1, true).validate);
}

TEST_CASE("Signals may be named in several ways") {
  const auto signals = [](const std::string& yaml) {
    return preemption_signals(
        config::read_or_throw<StepSchedulerConfig>(config::parse_yaml("preemption_signal: " + yaml, "r.yaml")));
  };
  CHECK(signals("SIGUSR1") == std::vector<int>{SIGUSR1});
  CHECK(signals("usr1") == std::vector<int>{SIGUSR1});
  CHECK(signals("15") == std::vector<int>{SIGTERM});
  CHECK(signals("[SIGTERM, sigusr2, 2]") == std::vector<int>{SIGTERM, SIGUSR2, SIGINT});
  CHECK(signals("null").empty());
  CHECK(preemption_signals({}) == std::vector<int>{SIGTERM});
  for (const char* wrong : {"true", "SIGFOO", "[SIGTERM, TERM]", "9", "-1", "{a: 1}"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(signals(wrong), Error);
  }
}

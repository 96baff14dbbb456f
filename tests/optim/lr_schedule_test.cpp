#include "optim/lr_schedule.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "config/config.h"
#include "core/error.h"

using namespace automodel;
using namespace automodel::optim;

namespace {

// The settings of the reference table: from 1e-4 over 1e-3 to 1e-5, 2 steps of warm-up, 10 of decay.
LrScheduleConfig table_config(LrDecayStyle style) {
  LrScheduleConfig c;
  c.init_lr = 1e-4;
  c.max_lr = 1e-3;
  c.min_lr = 1e-5;
  c.lr_warmup_steps = 2;
  c.lr_decay_steps = 10;
  c.lr_decay_style = style;
  return c;
}

LrScheduleConfig wsd_config(WsdDecayStyle style) {
  LrScheduleConfig c = table_config(LrDecayStyle::kWsd);
  c.wsd_decay_steps = 4;
  c.lr_wsd_decay_style = style;
  return c;
}

const std::vector<int64_t> kSteps = {0, 1, 2, 3, 6, 8, 10, 11};

void check_row(const LrScheduleConfig& config, const std::vector<double>& expected) {
  const LrSchedule schedule(config, {1e-3, 0, 10});
  REQUIRE(expected.size() == kSteps.size());
  for (size_t i = 0; i < kSteps.size(); ++i) {
    CAPTURE(kSteps[i]);
    CHECK(std::abs(schedule.lr(kSteps[i]) - expected[i]) <= 1e-5 * expected[i]);
  }
}

std::vector<std::string> problems_of(const LrScheduleConfig& config, const LrScheduleInputs& inputs) {
  std::vector<std::string> keys;
  check_schedule(config, inputs, [&](std::string_view key, std::string, std::string) { keys.emplace_back(key); });
  return keys;
}

}  // namespace

TEST_CASE("Learning rates follow the reference table") {
  check_row(table_config(LrDecayStyle::kCosine), {1e-4, 5.5e-4, 1e-3, 9.6232e-4, 5.05e-4, 1.54982e-4, 1e-5, 1e-5});
  check_row(table_config(LrDecayStyle::kLinear), {1e-4, 5.5e-4, 1e-3, 8.7625e-4, 5.05e-4, 2.575e-4, 1e-5, 1e-5});
  check_row(table_config(LrDecayStyle::kConstant), {1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3});
  check_row(table_config(LrDecayStyle::kInverseSquareRoot),
            {1e-4, 5.5e-4, 1e-3, 8.16497e-4, 5.7735e-4, 5e-4, 4.47214e-4, 1e-5});
  for (WsdDecayStyle style : {WsdDecayStyle::kLinear, WsdDecayStyle::kCosine}) {
    check_row(wsd_config(style), {1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 5.05e-4, 1e-5, 1e-5});
  }
  check_row(wsd_config(WsdDecayStyle::kExponential), {1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 4.20071e-4, 1e-5, 1e-5});
  check_row(wsd_config(WsdDecayStyle::kMinusSqrt), {1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 2.99964e-4, 1e-5, 1e-5});
  LrScheduleConfig no_warmup = table_config(LrDecayStyle::kCosine);
  no_warmup.lr_warmup_steps = 0;
  check_row(no_warmup, {1e-3, 9.75773e-4, 9.05463e-4, 7.95954e-4, 3.52037e-4, 1.04537e-4, 1e-5, 1e-5});
}

TEST_CASE("Weight decay grows as in the reference table") {
  LrScheduleConfig c = table_config(LrDecayStyle::kCosine);
  c.start_wd = 0;
  c.end_wd = 0.1;
  c.wd_incr_style = WdIncrStyle::kLinear;
  const LrSchedule linear(c, {1e-3, 0, 10});
  c.wd_incr_style = WdIncrStyle::kCosine;
  const LrSchedule cosine(c, {1e-3, 0, 10});
  const std::vector<int64_t> steps = {0, 1, 2, 3, 6, 10, 11};
  const std::vector<double> grows = {0, .01, .02, .03, .06, .1, .1};
  const std::vector<double> bends = {0, .00244717, .00954915, .0206107, .0654508, .1, .1};
  for (size_t i = 0; i < steps.size(); ++i) {
    CAPTURE(steps[i]);
    CHECK(std::abs(linear.weight_decay(steps[i]) - grows[i]) <= 1e-5 * grows[i]);
    CHECK(std::abs(cosine.weight_decay(steps[i]) - bends[i]) <= 1e-5 * bends[i] + 1e-17);
  }
}

TEST_CASE("Defaults of the schedule come from the optimizer and the length of the run") {
  const LrSchedule schedule({}, {2e-3, 0.1, 50000});
  CHECK(schedule.lr(0) == doctest::Approx(2e-4));
  CHECK(schedule.lr(1000) == doctest::Approx(2e-3));
  CHECK(schedule.lr(50000) == doctest::Approx(2e-5));
  CHECK(schedule.weight_decay(7) == 0.1);
  const auto state = schedule.state(3);
  CHECK(state["lr_warmup_steps"] == 1000);
  CHECK(state["lr_decay_steps"] == 50000);
  CHECK(LrSchedule({}, {1e-3, 0, 19}).state(0)["lr_warmup_steps"] == 1);
  CHECK(LrSchedule({}, {1e-3, 0, 9}).lr(0) == doctest::Approx(1e-3));
}

TEST_CASE("A recipe without a schedule keeps the learning rate") {
  const LrSchedule schedule = LrSchedule::constant(3e-4, 0.02);
  for (int64_t n : {0, 1, 1000000}) {
    CHECK(schedule.lr(n) == 3e-4);
    CHECK(schedule.weight_decay(n) == 0.02);
  }
}

TEST_CASE("Contradicting schedule settings are named by their key") {
  using Keys = std::vector<std::string>;
  const LrScheduleInputs inputs{1e-3, 0.01, 100};
  LrScheduleConfig c;
  CHECK(problems_of(c, inputs).empty());
  c.min_lr = 2e-3;
  CHECK(problems_of(c, inputs) == Keys{"min_lr"});
  c = {};
  c.init_lr = 2e-3;
  CHECK(problems_of(c, inputs) == Keys{"init_lr"});
  c = {};
  c.max_lr = 1e-6;
  CHECK(problems_of(c, inputs) == Keys{"max_lr", "max_lr"});
  c = {};
  c.lr_warmup_steps = 100;
  CHECK(problems_of(c, inputs) == Keys{"lr_warmup_steps"});
  CHECK(problems_of(c, {1e-3, 0.01, 0}).empty());
  CHECK(problems_of(c, {1e-3, 0.01, 101}).empty());
  c = {};
  c.start_wd = 0.5;
  CHECK(problems_of(c, inputs) == Keys{"start_wd"});
  c = {};
  c.end_wd = 0.5;
  CHECK(problems_of(c, inputs) == Keys{"end_wd"});
  c = wsd_config(WsdDecayStyle::kLinear);
  c.wsd_decay_steps = 9;
  CHECK(problems_of(c, inputs) == Keys{"wsd_decay_steps"});
  CHECK_THROWS_AS(LrSchedule(c, inputs), Error);
  CHECK_THROWS_AS(LrSchedule({}, {1e-3, 0.01, 0}), Error);
}

TEST_CASE("A schedule section is read with its names and its own checks") {
  const auto read = [](const char* text, config::Report& report) {
    return config::read<LrScheduleConfig>(config::parse_yaml(text, "r.yaml"), report);
  };
  config::Report report;
  const auto c = read("lr_decay_style: inverse-square-root\nlr_warmup_steps: 1e3\nmin_lr: 1e-6", report);
  REQUIRE_MESSAGE(report.empty(), report.text());
  CHECK(c.lr_decay_style == LrDecayStyle::kInverseSquareRoot);
  CHECK(c.lr_warmup_steps == 1000);
  CHECK(c.min_lr == 1e-6);
  for (const char* wrong : {"lr_warmup_steps: 0.1", "lr_decay_style: wsd2", "override_opt_param_scheduler: true",
                            "lr_decay_steps: 0", "lr_warmup_step: 3"}) {
    CAPTURE(wrong);
    config::Report bad;
    read(wrong, bad);
    CHECK(bad.problems().size() == 1);
  }
  config::Report wsd;
  read("lr_decay_style: WSD", wsd);
  CHECK(wsd.problems().size() == 2);
}

TEST_CASE("On resume the checkpoint's schedule wins unless the recipe says otherwise") {
  const LrSchedule trained(table_config(LrDecayStyle::kLinear), {1e-3, 0, 10});
  const nlohmann::json state = trained.state(6);
  CHECK(state["num_steps"] == 6);
  CHECK(state["lr_decay_style"] == "linear");
  CHECK(state.size() == 10);

  SUBCASE("the same settings restore without a word") {
    LrSchedule same(table_config(LrDecayStyle::kLinear), {1e-3, 0, 10});
    const auto restored = same.load(state);
    CHECK(restored.steps == 6);
    CHECK(restored.warnings.empty());
  }
  LrScheduleConfig longer = table_config(LrDecayStyle::kLinear);
  longer.lr_decay_steps = 20;
  SUBCASE("by default the checkpoint wins, with a warning") {
    LrSchedule schedule(longer, {1e-3, 0, 20});
    const auto restored = schedule.load(state);
    REQUIRE(restored.warnings.size() == 2);  // wd_incr_steps follows the length of the run too
    CHECK(restored.warnings[0].find("lr_decay_steps is 20 in the recipe and 10 in the checkpoint") !=
          std::string::npos);
    CHECK(schedule.lr(6) == trained.lr(6));
  }
  longer.use_checkpoint_opt_param_scheduler = false;
  SUBCASE("override keeps the recipe's") {
    longer.override_opt_param_scheduler = true;
    LrSchedule schedule(longer, {1e-3, 0, 20});
    CHECK(schedule.load(state).warnings.size() == 2);
    CHECK(schedule.lr(6) > trained.lr(6));
  }
  SUBCASE("neither: they must match") {
    LrSchedule schedule(longer, {1e-3, 0, 20});
    CHECK_THROWS_WITH_AS(schedule.load(state), doctest::Contains("lr_decay_steps"), Error);
  }
  SUBCASE("without a schedule section the constant rate stays") {
    LrSchedule schedule = LrSchedule::constant(1e-3, 0);
    CHECK(schedule.load(state).steps == 6);
    CHECK(schedule.lr(9) == 1e-3);
  }
  SUBCASE("a damaged state is refused") {
    LrSchedule schedule(longer, {1e-3, 0, 20});
    nlohmann::json bad = state;
    bad["lr_decay_style"] = "sideways";
    CHECK_THROWS_AS(schedule.load(bad), Error);
    bad = state;
    bad.erase("max_lr");
    CHECK_THROWS_AS(schedule.load(bad), Error);
    bad = state;
    bad["num_steps"] = "six";
    CHECK_THROWS_AS(schedule.load(bad), Error);
  }
}

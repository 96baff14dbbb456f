#include <fmt/core.h>

#include <algorithm>

#include "optim/lr_schedule.h"

namespace automodel::optim {

void describe(config::Names<LrDecayStyle>& n) {
  n("cosine", LrDecayStyle::kCosine)("linear", LrDecayStyle::kLinear)("constant", LrDecayStyle::kConstant);
  n("inverse-square-root", LrDecayStyle::kInverseSquareRoot)("WSD", LrDecayStyle::kWsd, "warm up, stay, decay");
}

void describe(config::Names<WsdDecayStyle>& n) {
  n("linear", WsdDecayStyle::kLinear)("cosine", WsdDecayStyle::kCosine)("exponential", WsdDecayStyle::kExponential);
  n("minus_sqrt", WsdDecayStyle::kMinusSqrt);
}

void describe(config::Names<WdIncrStyle>& n) {
  n("constant", WdIncrStyle::kConstant)("linear", WdIncrStyle::kLinear)("cosine", WdIncrStyle::kCosine);
}

void describe(config::Fields<LrScheduleConfig>& f) {
  using C = LrScheduleConfig;
  f.doc("Learning rate and weight decay by step. Without this section both stay constant.");
  f("lr_warmup_steps", &C::lr_warmup_steps, "Steps of the linear warm-up. Default: a tenth of the run, at most 1000.")
      .at_least(0);
  f("lr_decay_steps", &C::lr_decay_steps, "Step at which min_lr is reached. Default: the length of the run.").above(0);
  f("lr_decay_style", &C::lr_decay_style, "How the learning rate falls.");
  f("init_lr", &C::init_lr, "Learning rate of the first step of the warm-up. Default: a tenth of optimizer.lr.")
      .at_least(0);
  f("max_lr", &C::max_lr, "Learning rate after the warm-up. Default: optimizer.lr.").at_least(0);
  f("min_lr", &C::min_lr, "Learning rate at the end. Default: a hundredth of optimizer.lr.").at_least(0);
  f("start_wd", &C::start_wd, "Weight decay of the first step. Default: optimizer.weight_decay.").at_least(0);
  f("end_wd", &C::end_wd, "Weight decay after wd_incr_steps. Default: optimizer.weight_decay.").at_least(0);
  f("wd_incr_steps", &C::wd_incr_steps, "Steps over which the weight decay grows. Default: the length of the run.")
      .above(0);
  f("wd_incr_style", &C::wd_incr_style, "How the weight decay grows.");
  f("wsd_decay_steps", &C::wsd_decay_steps, "Steps of the final decay of WSD.").above(0);
  f("lr_wsd_decay_style", &C::lr_wsd_decay_style, "How WSD decays at the end.");
  f("use_checkpoint_opt_param_scheduler", &C::use_checkpoint_opt_param_scheduler,
    "On resume the checkpoint's schedule wins over the recipe's.");
  f("override_opt_param_scheduler", &C::override_opt_param_scheduler,
    "On resume the recipe's schedule wins over the checkpoint's.");
  f.check([](const C& c, config::Problems& problems) {
    if (c.use_checkpoint_opt_param_scheduler && c.override_opt_param_scheduler) {
      problems.add("override_opt_param_scheduler",
                   "override_opt_param_scheduler and use_checkpoint_opt_param_scheduler are both true",
                   "write use_checkpoint_opt_param_scheduler: false to let the recipe win");
    }
    if (c.lr_decay_style != LrDecayStyle::kWsd) return;
    if (!c.wsd_decay_steps) problems.add("lr_decay_style", "WSD needs wsd_decay_steps", "write wsd_decay_steps: 100");
    if (!c.lr_wsd_decay_style) {
      problems.add("lr_decay_style", "WSD needs lr_wsd_decay_style",
                   "choose linear, cosine, exponential or minus_sqrt");
    }
  });
}

namespace {

void check_rates(const LrScheduleConfig& c, const LrScheduleInputs& in, const ReportProblem& report) {
  const double max_lr = c.max_lr.value_or(in.lr);
  const double min_lr = c.min_lr.value_or(0.01 * in.lr);
  const double init_lr = c.init_lr.value_or(0.1 * in.lr);
  const char* max_name = c.max_lr ? "max_lr" : "optimizer.lr";
  if (min_lr > max_lr) {
    report(c.min_lr ? "min_lr" : "max_lr", fmt::format("min_lr {} is above {} {}", min_lr, max_name, max_lr),
           "lower min_lr");
  }
  if (init_lr > max_lr) {
    report(c.init_lr ? "init_lr" : "max_lr", fmt::format("init_lr {} is above {} {}", init_lr, max_name, max_lr),
           "lower init_lr");
  }
  const double start = c.start_wd.value_or(in.weight_decay);
  const double end = c.end_wd.value_or(in.weight_decay);
  if (start > end) {
    report(c.start_wd ? "start_wd" : "end_wd", fmt::format("start_wd {} is above end_wd {}", start, end),
           "weight decay can only grow");
  } else if (start != end && c.wd_incr_style == WdIncrStyle::kConstant) {
    report(c.start_wd ? "start_wd" : "end_wd",
           fmt::format("wd_incr_style constant needs equal start_wd and end_wd; they are {} and {}", start, end),
           "write wd_incr_style: linear or cosine");
  }
}

// The warm-up, when it is known.
std::optional<int64_t> warmup(const LrScheduleConfig& c, int64_t total_steps) {
  if (c.lr_warmup_steps) return c.lr_warmup_steps;
  if (total_steps > 0) return std::min<int64_t>(1000, total_steps / 10);
  return std::nullopt;
}

void check_steps(const LrScheduleConfig& c, const LrScheduleInputs& in, const ReportProblem& report) {
  const int64_t decay = c.lr_decay_steps.value_or(in.total_steps);
  if (decay == 0) return;
  const char* decay_name = c.lr_decay_steps ? "lr_decay_steps" : "the length of the run,";
  if (const auto warm = warmup(c, in.total_steps); warm && *warm >= decay) {
    report(c.lr_warmup_steps ? "lr_warmup_steps" : "lr_decay_steps",
           fmt::format("lr_warmup_steps {} is not below {} {}", *warm, decay_name, decay), "shorten the warm-up");
  } else if (warm && c.wsd_decay_steps && *c.wsd_decay_steps > decay - *warm) {
    report("wsd_decay_steps",
           fmt::format("wsd_decay_steps {} does not fit between lr_warmup_steps {} and {} {}", *c.wsd_decay_steps,
                       *warm, decay_name, decay),
           fmt::format("at most {}", decay - *warm));
  }
}

}  // namespace

void check_schedule(const LrScheduleConfig& config, const LrScheduleInputs& inputs, const ReportProblem& report) {
  check_rates(config, inputs, report);
  check_steps(config, inputs, report);
}

}  // namespace automodel::optim

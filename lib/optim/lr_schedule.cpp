#include "optim/lr_schedule.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <type_traits>

#include "core/error.h"

namespace automodel::optim {

namespace {

double half_cosine(double x) {
  return 0.5 * (1 + std::cos(std::numbers::pi * x));
}

template <class E>
const config::EnumTable& names_of() {
  return config::type_of<E>().names();
}

template <class E>
std::string name_of(E value) {
  return names_of<E>().of(static_cast<int64_t>(value))->name;
}

// Reads one field of a checkpoint's state.
template <class T>
T field(const nlohmann::json& state, const char* key) {
  const auto found = state.find(key);
  AM_CHECK(found != state.end(), Fault::kCheckpoint, "the checkpoint's lr schedule has no {}; it is not one of ours",
           key);
  if constexpr (std::is_enum_v<T>) {
    const auto* name = found->is_string() ? names_of<T>().find(found->template get<std::string>()) : nullptr;
    AM_CHECK(name, Fault::kCheckpoint, "the checkpoint's lr schedule has {} {}, which is unknown", key, found->dump());
    return static_cast<T>(name->value);
  } else {
    const bool fits = std::is_integral_v<T> ? found->is_number_integer() : found->is_number();
    AM_CHECK(fits, Fault::kCheckpoint, "the checkpoint's lr schedule has {} {}, which is not a number", key,
             found->dump());
    return found->template get<T>();
  }
}

template <class T>
std::string show(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return name_of(value);
  } else {
    return fmt::format("{}", value);
  }
}

}  // namespace

LrSchedule LrSchedule::constant(double lr, double weight_decay) {
  LrSchedule schedule;
  schedule.values_.max_lr = schedule.values_.min_lr = schedule.init_lr_ = lr;
  schedule.values_.start_wd = schedule.values_.end_wd = weight_decay;
  return schedule;
}

LrSchedule::LrSchedule(const LrScheduleConfig& config, const LrScheduleInputs& inputs) {
  AM_CHECK(inputs.total_steps > 0, Fault::kConfig,
           "lr_scheduler: the run has {} steps; raise step_scheduler.max_steps or num_epochs", inputs.total_steps);
  std::string mistakes;
  check_schedule(config, inputs, [&](std::string_view key, const std::string& message, const std::string& hint) {
    mistakes += fmt::format("{}lr_scheduler.{}: {}; {}", mistakes.empty() ? "" : "\n", key, message, hint);
  });
  AM_CHECK(mistakes.empty(), Fault::kConfig, "{}", mistakes);

  const int64_t total = inputs.total_steps;
  values_ = {
      .max_lr = config.max_lr.value_or(inputs.lr),
      .lr_warmup_steps = config.lr_warmup_steps.value_or(std::min<int64_t>(1000, total / 10)),
      .lr_decay_style = config.lr_decay_style,
      .lr_decay_steps = config.lr_decay_steps.value_or(total),
      .min_lr = config.min_lr.value_or(0.01 * inputs.lr),
      .start_wd = config.start_wd.value_or(inputs.weight_decay),
      .end_wd = config.end_wd.value_or(inputs.weight_decay),
      .wd_incr_style = config.wd_incr_style,
      .wd_incr_steps = config.wd_incr_steps.value_or(total),
  };
  init_lr_ = config.init_lr.value_or(0.1 * inputs.lr);
  wsd_decay_steps_ = config.wsd_decay_steps.value_or(0);
  wsd_style_ = config.lr_wsd_decay_style.value_or(WsdDecayStyle::kLinear);
  on_load_ = config.override_opt_param_scheduler         ? OnLoad::kKeepOwn
             : config.use_checkpoint_opt_param_scheduler ? OnLoad::kTakeCheckpoint
                                                         : OnLoad::kMustMatch;
}

double LrSchedule::lr(int64_t n) const {
  const Values& v = values_;
  const int64_t warm = v.lr_warmup_steps;
  if (warm > 0 && n <= warm) {
    return init_lr_ + (v.max_lr - init_lr_) * static_cast<double>(n) / static_cast<double>(warm);
  }
  if (v.lr_decay_style == LrDecayStyle::kConstant) return v.max_lr;
  if (n > v.lr_decay_steps) return v.min_lr;
  if (v.lr_decay_style == LrDecayStyle::kInverseSquareRoot) {
    const double start = static_cast<double>(std::max<int64_t>(warm, 1));
    const double now = static_cast<double>(std::max<int64_t>(n, 1));
    return std::max(v.min_lr, v.max_lr * std::sqrt(start) / std::sqrt(now));
  }
  return v.min_lr + decay_factor(n) * (v.max_lr - v.min_lr);
}

// From 1 after the warm-up to 0 at the end of the decay.
double LrSchedule::decay_factor(int64_t n) const {
  const Values& v = values_;
  if (v.lr_decay_style == LrDecayStyle::kWsd) {
    const int64_t begin = v.lr_decay_steps - wsd_decay_steps_;
    if (n <= begin) return 1;
    const double q = static_cast<double>(n - begin) / static_cast<double>(wsd_decay_steps_);
    switch (wsd_style_) {
      case WsdDecayStyle::kLinear:
        return 1 - q;
      case WsdDecayStyle::kCosine:
        return half_cosine(q);
      case WsdDecayStyle::kExponential:
        return 2 * std::pow(0.5, q) - 1;
      case WsdDecayStyle::kMinusSqrt:
        return 1 - std::sqrt(q);
    }
  }
  const double r =
      static_cast<double>(n - v.lr_warmup_steps) / static_cast<double>(v.lr_decay_steps - v.lr_warmup_steps);
  return v.lr_decay_style == LrDecayStyle::kLinear ? 1 - r : half_cosine(r);
}

double LrSchedule::weight_decay(int64_t n) const {
  const Values& v = values_;
  if (n > v.wd_incr_steps || v.wd_incr_style == WdIncrStyle::kConstant) return v.end_wd;
  const double r = static_cast<double>(n) / static_cast<double>(v.wd_incr_steps);
  const double c = v.wd_incr_style == WdIncrStyle::kLinear ? r : half_cosine(1 - r);
  return v.start_wd + c * (v.end_wd - v.start_wd);
}

nlohmann::json LrSchedule::state(int64_t n) const {
  const Values& v = values_;
  return {{"max_lr", v.max_lr},
          {"lr_warmup_steps", v.lr_warmup_steps},
          {"num_steps", n},
          {"lr_decay_style", name_of(v.lr_decay_style)},
          {"lr_decay_steps", v.lr_decay_steps},
          {"min_lr", v.min_lr},
          {"start_wd", v.start_wd},
          {"end_wd", v.end_wd},
          {"wd_incr_style", name_of(v.wd_incr_style)},
          {"wd_incr_steps", v.wd_incr_steps}};
}

LrSchedule::Restored LrSchedule::load(const nlohmann::json& state) {
  Restored restored;
  std::string differing;
  const auto take = [&](const char* key, auto& own) {
    const auto stored = field<std::decay_t<decltype(own)>>(state, key);
    if (stored == own) return;
    const std::string values =
        fmt::format("{} is {} in the recipe and {} in the checkpoint", key, show(own), show(stored));
    if (on_load_ == OnLoad::kMustMatch) {
      differing += "\n  " + values;
    } else if (on_load_ == OnLoad::kTakeCheckpoint) {
      restored.warnings.push_back(fmt::format("lr_scheduler: {}; the checkpoint's is used", values));
      own = stored;
    } else {
      restored.warnings.push_back(fmt::format("lr_scheduler: {}; the recipe's is used", values));
    }
  };
  restored.steps = field<int64_t>(state, "num_steps");
  take("max_lr", values_.max_lr);
  take("min_lr", values_.min_lr);
  take("lr_warmup_steps", values_.lr_warmup_steps);
  take("lr_decay_steps", values_.lr_decay_steps);
  take("lr_decay_style", values_.lr_decay_style);
  take("start_wd", values_.start_wd);
  take("end_wd", values_.end_wd);
  take("wd_incr_steps", values_.wd_incr_steps);
  take("wd_incr_style", values_.wd_incr_style);
  AM_CHECK(
      differing.empty(), Fault::kCheckpoint,
      "lr_scheduler: the checkpoint's schedule must match and differs:{}\nset use_checkpoint_opt_param_scheduler or "
      "override_opt_param_scheduler to say which one wins",
      differing);
  return restored;
}

}  // namespace automodel::optim

#include "train/step_scheduler.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <set>

#include "core/error.h"

namespace automodel::train {

namespace {

struct SignalName {
  const char* name;
  int number;
};
constexpr SignalName kSignals[] = {{"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"USR1", SIGUSR1},
                                   {"USR2", SIGUSR2}, {"TERM", SIGTERM}, {"XCPU", SIGXCPU}, {"ALRM", SIGALRM},
                                   {"CONT", SIGCONT}, {"URG", SIGURG}};

// The signal of a name or number; nothing for other text.
std::optional<int> signal_number(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  if (text.starts_with("SIG")) text = text.substr(3);
  int number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_number = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  for (const SignalName& signal : kSignals) {
    if (text == signal.name || (is_number && number == signal.number)) return signal.number;
  }
  return std::nullopt;
}

void check_signals(const StepSchedulerConfig& c, config::Problems& problems) {
  if (!c.preemption_signal) return;
  std::set<int> seen;
  for (const std::string& text : *c.preemption_signal) {
    const auto number = signal_number(text);
    if (!number) {
      problems.add("preemption_signal", fmt::format("'{}' is no signal that can be waited for", text),
                   "such as SIGTERM, SIGUSR1 or SIGINT");
    } else if (!seen.insert(*number).second) {
      problems.add("preemption_signal", fmt::format("'{}' is named twice", text), "name each signal once");
    }
  }
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

void describe(config::Fields<StepSchedulerConfig>& f) {
  using C = StepSchedulerConfig;
  f.doc("Batch sizes, the length of the run, and when it validates and saves.");
  f("global_batch_size", &C::global_batch_size, "Samples of one update, over all data-parallel ranks.").above(0);
  f("local_batch_size", &C::local_batch_size, "Samples of one microbatch on one rank.").above(0);
  f("num_epochs", &C::num_epochs, "Passes over the data; null: as many as max_steps needs.").above(0);
  f("max_steps", &C::max_steps, "Updates; null: num_epochs passes.").above(0);
  f("ckpt_every_steps", &C::ckpt_every_steps, "Updates between checkpoints; null: one epoch.").above(0);
  f("save_checkpoint_every_epoch", &C::save_checkpoint_every_epoch, "Save at the end of each epoch too.");
  f("val_every_steps", &C::val_every_steps, "Updates between validations; each checkpoint validates anyway.").above(0);
  f("log_remote_every_steps", &C::log_remote_every_steps, "Updates between records of remote trackers.").above(0);
  f("start_step", &C::start_step, "Number of the first update.").at_least(0);
  f("start_epoch", &C::start_epoch, "Number of the first epoch.").at_least(0);
  f("preemption_signal", &C::preemption_signal, "Signals that end the run after a checkpoint; null: none.")
      .one_or_list();
  f.key("loss_average_window_steps").no_effect("losses are logged step by step");
  f.key("gc_every_steps").no_effect("memory is freed as soon as it is unused");
  f.check([](const C& c, config::Problems& problems) {
    if (c.global_batch_size % c.local_batch_size != 0) {
      problems.add("global_batch_size",
                   fmt::format("global_batch_size {} is not a multiple of local_batch_size {}", c.global_batch_size,
                               c.local_batch_size),
                   global_batch_hint(c.global_batch_size, c.local_batch_size, 1));
    }
    check_signals(c, problems);
  });
}

std::vector<int> preemption_signals(const StepSchedulerConfig& config) {
  std::vector<int> numbers;
  for (const std::string& text : config.preemption_signal.value_or(std::vector<std::string>{})) {
    const auto number = signal_number(text);
    AM_CHECK(number, Fault::kConfig, "step_scheduler.preemption_signal: '{}' is no signal that can be waited for",
             text);
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<int64_t> valid_global_batches(int64_t global, int64_t local, int64_t dp_size) {
  const int64_t unit = local * dp_size;
  const int64_t below = global / unit * unit;
  std::vector<int64_t> valid;
  if (below > 0) valid.push_back(below);
  if (below != global) valid.push_back(below + unit);
  std::stable_sort(valid.begin(), valid.end(),
                   [&](int64_t a, int64_t b) { return std::abs(a - global) < std::abs(b - global); });
  return valid;
}

std::string global_batch_hint(int64_t global, int64_t local, int64_t dp_size) {
  std::string hint = "for example global_batch_size: ";
  for (const char* joint = ""; int64_t valid : valid_global_batches(global, local, dp_size)) {
    hint += joint + std::to_string(valid);
    joint = " or ";
  }
  return hint;
}

std::optional<int64_t> accumulation_steps(int64_t global, int64_t local, int64_t dp_size) {
  const int64_t unit = local * dp_size;
  if (unit <= 0 || global <= 0 || global % unit != 0) return std::nullopt;
  return global / unit;
}

StepScheduler::StepScheduler(const StepSchedulerConfig& config, const StepSchedulerInputs& inputs) {
  const auto steps = accumulation_steps(config.global_batch_size, config.local_batch_size, inputs.dp_size);
  AM_CHECK(steps, Fault::kConfig,
           "step_scheduler: global_batch_size {} is not a multiple of local_batch_size {} * {} data-parallel ranks",
           config.global_batch_size, config.local_batch_size, inputs.dp_size);
  accumulation_ = *steps;
  batches_per_epoch_ = inputs.batches_per_epoch;
  if (batches_per_epoch_) {
    AM_CHECK(*batches_per_epoch_ > 0, Fault::kData, "dataset: there is not one batch of {} samples for each rank",
             config.local_batch_size);
    steps_per_epoch_ = ceil_div(*batches_per_epoch_, accumulation_);
  }
  AM_CHECK(config.max_steps || steps_per_epoch_, Fault::kConfig,
           "step_scheduler.max_steps: the dataset has no end, so the number of steps must be given");
  num_epochs_ = config.num_epochs.value_or(
      config.max_steps && steps_per_epoch_ ? ceil_div(*config.max_steps, *steps_per_epoch_) : 10);
  max_steps_ = config.max_steps.value_or(steps_per_epoch_ ? num_epochs_ * *steps_per_epoch_ : 0);
  ckpt_every_ = config.ckpt_every_steps.value_or(steps_per_epoch_.value_or(std::max<int64_t>(1, max_steps_ / 2)));
  val_every_ = config.val_every_steps;
  save_every_epoch_ = config.save_checkpoint_every_epoch;
}

int64_t StepScheduler::total_steps() const {
  return steps_per_epoch_ ? std::min(max_steps_, num_epochs_ * *steps_per_epoch_) : max_steps_;
}

int64_t StepScheduler::microbatches(int64_t step) const {
  if (!steps_per_epoch_ || step % *steps_per_epoch_ != *steps_per_epoch_ - 1) return accumulation_;
  return *batches_per_epoch_ - accumulation_ * (*steps_per_epoch_ - 1);
}

StepScheduler::Decision StepScheduler::decide(int64_t step, int64_t epoch, bool signalled) const {
  const auto every = [step](int64_t n) { return step % n == n - 1; };
  Decision d;
  d.last_batch = steps_per_epoch_ && every(*steps_per_epoch_);
  d.last_step = step + 1 >= max_steps_ || (epoch >= num_epochs_ - 1 && d.last_batch);
  d.checkpoint = every(ckpt_every_) || (save_every_epoch_ && d.last_batch) || d.last_step || signalled;
  d.validate = !signalled && (d.checkpoint || (val_every_ && every(*val_every_)));
  return d;
}

StepScheduler::State StepScheduler::state_after(int64_t step, int64_t epoch) const {
  return {std::min(max_steps_, step + 1), epoch};
}

bool StepScheduler::finished(const State& state) const {
  return state.step >= total_steps();
}

}  // namespace automodel::train

// Learning rate and weight decay by step: a linear warm-up, then a decay. The styles and their formulas are those of
// Megatron-LM's parameter scheduler, which the recipes of the reference use.
//
// With n steps taken, W warm-up steps, D decay steps, S steps of WSD's final decay, from init over max to min:
//   n <= W (and W > 0)   init + (max - init) * n / W
//   constant             max
//   n > D                min
//   inverse-square-root  max(min, max * sqrt(max(W, 1) / max(n, 1)))
//   otherwise            min + c * (max - min), r = (n - W) / (D - W):  linear c = 1 - r, cosine c = (1 + cos(pi r)) /
//   2,
//     WSD c = 1 until D - S, then with q = (n - (D - S)) / S: linear 1 - q, cosine (1 + cos(pi q)) / 2,
//     exponential 2 * 0.5^q - 1, minus_sqrt 1 - sqrt(q)
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/schema.h"

namespace automodel::optim {

enum class LrDecayStyle { kCosine, kLinear, kConstant, kInverseSquareRoot, kWsd };
enum class WsdDecayStyle { kLinear, kCosine, kExponential, kMinusSqrt };
enum class WdIncrStyle { kConstant, kLinear, kCosine };
void describe(config::Names<LrDecayStyle>&);
void describe(config::Names<WsdDecayStyle>&);
void describe(config::Names<WdIncrStyle>&);

// The `lr_scheduler:` section. What is left out comes from the optimizer and the length of the run.
struct LrScheduleConfig {
  std::optional<int64_t> lr_warmup_steps;  // default: a tenth of the run, at most 1000
  std::optional<int64_t> lr_decay_steps;   // default: the run
  LrDecayStyle lr_decay_style = LrDecayStyle::kCosine;
  std::optional<double> init_lr;         // default: a tenth of the optimizer's lr
  std::optional<double> max_lr;          // default: the optimizer's lr
  std::optional<double> min_lr;          // default: a hundredth of the optimizer's lr
  std::optional<double> start_wd;        // default: the optimizer's weight decay
  std::optional<double> end_wd;          // default: the optimizer's weight decay
  std::optional<int64_t> wd_incr_steps;  // default: the run
  WdIncrStyle wd_incr_style = WdIncrStyle::kConstant;
  std::optional<int64_t> wsd_decay_steps;
  std::optional<WsdDecayStyle> lr_wsd_decay_style;
  bool use_checkpoint_opt_param_scheduler = true;
  bool override_opt_param_scheduler = false;
};
void describe(config::Fields<LrScheduleConfig>&);

// Where the defaults come from.
struct LrScheduleInputs {
  double lr = 0;
  double weight_decay = 0;
  int64_t total_steps = 0;  // of the run; 0: not known yet, and what depends on it is not checked
};

// Told of each mistake: key of the section, what is wrong, what to do.
using ReportProblem = std::function<void(std::string_view key, std::string message, std::string hint)>;

// Checks what depends on the optimizer and the length of the run.
void check_schedule(const LrScheduleConfig& config, const LrScheduleInputs& inputs, const ReportProblem& report);

class LrSchedule {
 public:
  // A recipe without `lr_scheduler:`: both stay as they are.
  static LrSchedule constant(double lr, double weight_decay);
  // `inputs.total_steps` must be known. Throws Error(kConfig) with every mistake.
  LrSchedule(const LrScheduleConfig& config, const LrScheduleInputs& inputs);

  // Of the step that follows n taken steps; the first step of a run uses n = 0.
  double lr(int64_t n) const;
  double weight_decay(int64_t n) const;

  // What a checkpoint keeps, after n steps: max_lr, lr_warmup_steps, num_steps, lr_decay_style, lr_decay_steps, min_lr,
  // start_wd, end_wd, wd_incr_style, wd_incr_steps.
  nlohmann::json state(int64_t n) const;

  struct Restored {
    int64_t steps = 0;                  // taken before the checkpoint
    std::vector<std::string> warnings;  // where the recipe and the checkpoint differ, and which won
  };
  // Takes over a checkpoint's values, or keeps the recipe's, as use_checkpoint_opt_param_scheduler and
  // override_opt_param_scheduler say; a constant() schedule keeps its own. Throws Error(kCheckpoint) when fields are
  // missing or wrong, or when neither flag is set and the values differ.
  Restored load(const nlohmann::json& state);

 private:
  // What state() holds.
  struct Values {
    double max_lr = 0;
    int64_t lr_warmup_steps = 0;
    LrDecayStyle lr_decay_style = LrDecayStyle::kConstant;
    int64_t lr_decay_steps = 1;
    double min_lr = 0;
    double start_wd = 0;
    double end_wd = 0;
    WdIncrStyle wd_incr_style = WdIncrStyle::kConstant;
    int64_t wd_incr_steps = 1;
  };
  enum class OnLoad { kTakeCheckpoint, kKeepOwn, kMustMatch };

  LrSchedule() = default;
  double decay_factor(int64_t n) const;

  Values values_;
  double init_lr_ = 0;
  int64_t wsd_decay_steps_ = 0;
  WsdDecayStyle wsd_style_ = WsdDecayStyle::kLinear;
  OnLoad on_load_ = OnLoad::kKeepOwn;
};

}  // namespace automodel::optim

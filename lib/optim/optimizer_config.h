// The `optimizer:` section: which optimizer and with what settings. Every accepted target is a form of Adam (Kingma and
// Ba, ICLR 2015), with coupled decay, or with decoupled decay as in AdamW (Loshchilov and Hutter, ICLR 2019). Weights
// and moments are kept in fp32 whatever the type of the model.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/schema.h"
#include "optim/param_groups.h"

namespace automodel::optim {

// What all forms of Adam have. The defaults are torch.optim's; short names (adamw) have others.
struct AdamCommon {
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.999};
  double eps = 1e-8;
  std::vector<ParamGroupOverride> param_group_overrides;
};

// Coupled decay: the gradient becomes g + weight_decay * p.
struct AdamConfig : AdamCommon {
  double weight_decay = 0;
};

// Decoupled decay: p becomes p * (1 - lr * weight_decay) before the update.
struct AdamWConfig : AdamCommon {
  double weight_decay = 0.01;
};

// TransformerEngine's FusedAdam: AdamW, or Adam when adam_w_mode is false.
struct FusedAdamConfig : AdamCommon {
  double weight_decay = 0;
  bool adam_w_mode = true;
};

// flashoptim's FlashAdamW, run as AdamW.
struct FlashAdamWConfig : AdamCommon {
  double weight_decay = 0.01;
};

// Muon and its kin: known by name, refused.
struct MatrixOptimizerConfig {
  std::string target;
};

void describe(config::Fields<AdamConfig>&);
void describe(config::Fields<AdamWConfig>&);
void describe(config::Fields<FusedAdamConfig>&);
void describe(config::Fields<FlashAdamWConfig>&);
void describe(config::Fields<MatrixOptimizerConfig>&);

using OptimizerConfig = std::variant<AdamWConfig, AdamConfig, FusedAdamConfig, FlashAdamWConfig, MatrixOptimizerConfig>;

// What the update needs.
struct AdamSettings {
  bool decoupled = true;
  double lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
};

// Throws Error(kBug) for a refused optimizer, which config::read reports before.
AdamSettings resolve(const OptimizerConfig& config);

const std::vector<ParamGroupOverride>& param_group_overrides(const OptimizerConfig& config);

}  // namespace automodel::optim

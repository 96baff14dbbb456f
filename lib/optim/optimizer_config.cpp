#include "optim/optimizer_config.h"

#include <fmt/core.h>

#include "core/error.h"

namespace automodel::optim {

namespace {

constexpr const char* kOneWay = "there is one implementation of the update, fused and vectorised";

template <class T>
void short_name(config::Fields<T>& f, std::string name) {
  f.target({std::move(name)}, [](T& config) {
    config.lr = 1e-4;
    config.weight_decay = 0.01;
  });
}

template <class T>
void describe_common(config::Fields<T>& f, const char* decay) {
  f("lr", &T::lr, "Peak learning rate.").at_least(0);
  f("betas", &T::betas, "Decay of the running means of the gradient and of its square.").each().at_least(0).below(1);
  f("eps", &T::eps, "Added to the denominator.").at_least(0);
  f("weight_decay", &T::weight_decay, decay).at_least(0);
  f("param_group_overrides", &T::param_group_overrides,
    "Other learning rates and decays for parameters whose names match; the first match wins.");
}

template <class T>
void describe_torch_hints(config::Fields<T>& f) {
  f.key("amsgrad").refused("AMSGrad is not supported; leave it out", {"false"});
  f.key("maximize").refused("losses are minimised; leave it out", {"false"});
  for (const char* key : {"foreach", "fused", "capturable", "differentiable"}) f.key(key).no_effect(kOneWay);
}

// A type that the reference lets one choose and that is fp32 here.
template <class T>
void fp32_only(config::Fields<T>& f, const std::string& key) {
  f.key(key).refused(fmt::format("{} can only be float32 here", key),
                     config::any_of({"float32", "torch.float32", "fp32", "float"}));
}

}  // namespace

void describe(config::Fields<AdamConfig>& f) {
  f.doc("Adam; weight decay is added to the gradient.");
  f.target({"torch.optim.Adam"});
  short_name(f, "adam");
  describe_common(f, "Coupled decay: added to the gradient, times the weight.");
  describe_torch_hints(f);
}

void describe(config::Fields<AdamWConfig>& f) {
  f.doc("AdamW; weight decay shrinks the weights directly.");
  f.target({"torch.optim.AdamW"});
  short_name(f, "adamw");
  describe_common(f, "Decoupled decay: the weight shrinks by lr times this in each step.");
  describe_torch_hints(f);
}

void describe(config::Fields<FusedAdamConfig>& f) {
  f.doc("TransformerEngine's FusedAdam: the same update as AdamW, or as Adam without adam_w_mode.");
  f.target({"transformer_engine.pytorch.optimizers.fused_adam.FusedAdam",
            "transformer_engine.pytorch.optimizers.FusedAdam"});
  short_name(f, "fused_adam");
  describe_common(f, "Decay of the weights; decoupled when adam_w_mode is true.");
  f("adam_w_mode", &FusedAdamConfig::adam_w_mode, "Decoupled decay.");
  f.key("bias_correction").refused("the running means are always corrected for their start", {"true"});
  f.key("master_weights").no_effect("fp32 weights are always kept");
  fp32_only(f, "master_weight_dtype");
  fp32_only(f, "exp_avg_dtype");
  fp32_only(f, "exp_avg_sq_dtype");
  f.key("store_param_remainders").refused("fp32 weights are kept whole; leave it out", {"false"});
  f.key("amsgrad").refused("AMSGrad is not supported; leave it out", {"false"});
  for (const char* key : {"capturable", "set_grad_none"}) f.key(key).no_effect(kOneWay);
}

void describe(config::Fields<FlashAdamWConfig>& f) {
  f.doc("flashoptim's FlashAdamW, run as AdamW with fp32 weights and moments.");
  f.target({"flashoptim.FlashAdamW"});
  short_name(f, "flash_adamw");
  describe_common(f, "Decoupled decay: the weight shrinks by lr times this in each step.");
  f.key("master_weight_bits").no_effect("fp32 weights are always kept whole");
}

void describe(config::Fields<MatrixOptimizerConfig>& f) {
  f.doc("Optimizers on whole matrices. Not supported yet.");
  for (const char* name : {"Muon", "NorMuon", "Dion", "Dion2"}) f.target({fmt::format("dion.{}", name)});
  for (const char* name : {"muon", "normuon", "dion", "dion2"}) f.target({name});
  f.keep_target(&MatrixOptimizerConfig::target);
  f.allow_unknown();
  f.check([](const MatrixOptimizerConfig& c, config::Problems& problems) {
    problems.add("_target_", fmt::format("{} is not supported yet", c.target),
                 "use torch.optim.AdamW, torch.optim.Adam, FusedAdam or FlashAdamW");
  });
}

AdamSettings resolve(const OptimizerConfig& config) {
  return std::visit(
      [](const auto& c) -> AdamSettings {
        using T = std::decay_t<decltype(c)>;
        if constexpr (std::is_same_v<T, MatrixOptimizerConfig>) {
          fail(Fault::kBug, "optimizer: {} has no Adam settings", c.target);
        } else {
          bool decoupled = !std::is_same_v<T, AdamConfig>;
          if constexpr (std::is_same_v<T, FusedAdamConfig>) decoupled = c.adam_w_mode;
          return {decoupled, c.lr, c.betas[0], c.betas[1], c.eps, c.weight_decay};
        }
      },
      config);
}

const std::vector<ParamGroupOverride>& param_group_overrides(const OptimizerConfig& config) {
  return std::visit(
      [](const auto& c) -> const std::vector<ParamGroupOverride>& {
        if constexpr (std::is_base_of_v<AdamCommon, std::decay_t<decltype(c)>>) {
          return c.param_group_overrides;
        } else {
          fail(Fault::kBug, "optimizer: {} has no parameter groups", c.target);
        }
      },
      config);
}

}  // namespace automodel::optim

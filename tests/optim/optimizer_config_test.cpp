#include "optim/optimizer_config.h"

#include <doctest/doctest.h>

#include "config/config.h"
#include "core/error.h"

using namespace automodel;
using namespace automodel::optim;

namespace {

struct Section {
  OptimizerConfig optimizer;
};
void describe(config::Fields<Section>& f) {
  f.doc("Test.");
  f("optimizer", &Section::optimizer, "Optimizer.").required();
}

AdamSettings settings(const std::string& text) {
  return resolve(config::read_or_throw<Section>(config::parse_yaml("optimizer: " + text, "r.yaml")).optimizer);
}

config::Report report_of(const std::string& text) {
  config::Report report;
  config::read<Section>(config::parse_yaml("optimizer: " + text, "r.yaml"), report);
  return report;
}

}  // namespace

TEST_CASE("Each target has its own defaults and kind of decay") {
  auto s = settings("{_target_: torch.optim.Adam}");
  CHECK(!s.decoupled);
  CHECK(s.lr == 1e-3);
  CHECK(s.weight_decay == 0);
  s = settings("{_target_: torch.optim.AdamW, betas: [0.9, 0.95], eps: 1e-5}");
  CHECK(s.decoupled);
  CHECK(s.lr == 1e-3);
  CHECK(s.weight_decay == 0.01);
  CHECK(s.beta2 == 0.95);
  CHECK(s.eps == 1e-5);
  s = settings("{_target_: adam, lr: 1e-5}");
  CHECK(!s.decoupled);
  CHECK(s.lr == 1e-5);
  CHECK(s.weight_decay == 0.01);
  for (const char* text : {"adamw", "{_target_: flash_adamw}", "{_target_: fused_adam}"}) {
    CAPTURE(text);
    s = settings(text);
    CHECK(s.decoupled);
    CHECK(s.lr == 1e-4);
    CHECK(s.weight_decay == 0.01);
  }
  for (const char* path : {"transformer_engine.pytorch.optimizers.fused_adam.FusedAdam",
                           "transformer_engine.pytorch.optimizers.FusedAdam"}) {
    CAPTURE(path);
    CHECK(settings(std::string("{adam_w_mode: false, master_weights: true, _target_: ") + path + "}").decoupled ==
          false);
  }
  CHECK(settings("{_target_: flashoptim.FlashAdamW, master_weight_bits: 24}").lr == 1e-3);
}

TEST_CASE("Hints about the implementation are accepted and said to do nothing") {
  const auto report = report_of("{_target_: torch.optim.AdamW, foreach: false, fused: true, amsgrad: false}");
  CHECK(report.empty());
  CHECK(report.notes().size() == 2);
}

TEST_CASE("What cannot be done is refused by name") {
  const auto one = [](const std::string& text, const char* part) {
    const auto report = report_of(text);
    CAPTURE(text);
    REQUIRE_MESSAGE(report.problems().size() == 1, report.text());
    CHECK_MESSAGE(report.text().find(part) != std::string::npos, report.text());
  };
  one("{_target_: torch.optim.Adam, amsgrad: true}", "AMSGrad");
  one("{_target_: dion.Muon, lr: 1e-3, mu: 0.95}", "Muon is not supported yet");
  one("{_target_: muon}", "muon is not supported yet");
  one("{_target_: normuon}", "normuon");
  one("{_target_: dion}", "dion");
  one("{_target_: dion2}", "dion2");
  one("{_target_: torch.optim.SGD}", "torch.optim.SGD");
  one("{_target_: fused_adam, exp_avg_dtype: bfloat16}", "exp_avg_dtype can only be float32");
  one("{_target_: torch.optim.Adam, lr: -1}", "lr");
  one("{_target_: torch.optim.Adam, betas: [0.9]}", "betas");
  one("{_target_: torch.optim.Adam, betas: [0.9, 1.0]}", "betas");
  one("{_target_: torch.optim.Adam, weigth_decay: 0.1}", "weight_decay");
  one("{_target_: adamw, param_group_overrides: [{pattern: '(', lr_mult: 2}]}", "not a regular expression");
  one("{_target_: adamw, param_group_overrides: [{lr_mult: 2}]}", "pattern");
  CHECK(report_of("{_target_: fused_adam, exp_avg_dtype: float32, master_weight_dtype: torch.float32}").empty());
}

TEST_CASE("The first override that is found in a name decides") {
  const std::vector<std::string> names = {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight",
                                          "model.layers.10.mlp.up_proj.weight", "lm_head.weight"};
  const std::vector<ParamGroupOverride> overrides = {
      {R"(layers\.1)", 0.5, 1}, {"mlp", 2, 0}, {"^(lm_head|model.embed)", 1, 0}, {"router", 3, 1}};
  const auto groups = assign_groups(overrides, names);
  CHECK(groups.multipliers == std::vector<Multipliers>{{1, 0}, {2, 0}, {0.5, 1}, {1, 0}});
  REQUIRE(groups.warnings.size() == 1);
  CHECK(groups.warnings[0].find("'router'") != std::string::npos);
  CHECK(assign_groups({}, names).multipliers == std::vector<Multipliers>(4));
  CHECK_THROWS_AS(assign_groups({{"[", 1, 1}}, names), Error);
}

TEST_CASE("Overrides are read from the optimizer section") {
  const auto section = config::read_or_throw<Section>(config::parse_yaml(
      "optimizer: {_target_: torch.optim.AdamW, param_group_overrides: [{pattern: bias$, wd_mult: 0}]}", "r.yaml"));
  const auto& overrides = param_group_overrides(section.optimizer);
  REQUIRE(overrides.size() == 1);
  CHECK(overrides[0].pattern == "bias$");
  CHECK(overrides[0].wd_mult == 0);
  CHECK(overrides[0].lr_mult == 1);
}

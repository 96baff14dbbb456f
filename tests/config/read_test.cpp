// From trees to structs: every kind of member, every rule, every message.
#include <doctest/doctest.h>

#include "config/sample.h"
#include "config/text.h"
#include "core/error.h"

using namespace automodel::config;
using automodel::DType;
using automodel::Error;

namespace {

struct Outcome {
  sample::Recipe recipe;
  Report report;
};

Outcome load(const std::string& text) {
  Outcome outcome;
  const Node node = parse_yaml(text, "r.yaml", sample::variables({}));
  outcome.recipe = read<sample::Recipe>(node, outcome.report);
  return outcome;
}

// A recipe of the required keys and `lines`.
Outcome with(const std::string& lines) {
  return load("recipe: x\noptimizer: adamw\n" + lines);
}
std::string errors(const std::string& lines) {
  return with(lines).report.text();
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE("not found: ", part, " in:\n", text);
  return false;
}

}  // namespace

TEST_CASE("a recipe without mistakes fills every kind of member") {
  const Outcome outcome = load(sample::kRecipe);
  REQUIRE(outcome.report.text() == "");
  const sample::Recipe& recipe = outcome.recipe;
  CHECK(recipe.seed == 1234);
  CHECK(recipe.step_scheduler.global_batch_size == 64);
  CHECK_FALSE(recipe.step_scheduler.max_steps);
  CHECK(*recipe.model.dtype == DType::kBF16);
  CHECK(recipe.model.extra.find("num_hidden_layers")->as_int() == 4);
  CHECK(recipe.model.extra.at_path("rope_scaling.factor")->as_double() == 4);
  CHECK(*recipe.distributed.mp_policy->param_dtype == DType::kF32);
  const auto& adam = std::get<sample::AdamW>(recipe.optimizer);
  CHECK(adam.lr == 1e-5);
  CHECK(adam.betas[1] == 0.95);
  CHECK(recipe.datasets.at("default").split == "train[:100]");
  CHECK(recipe.datasets.at("default").columns == std::vector<std::string>{"question"});
  CHECK(std::get<sample::Collate>(recipe.datasets.at("second").collate_fn).pad_seq_len_divisible == 16);
  CHECK(recipe.groups[1].lr_mult == 0.5);
  CHECK(recipe.consolidated == sample::Consolidated::kEvery);
  CHECK(recipe.wandb->weights.at("b") == 2.5);
  CHECK(recipe.raw.items().size() == 8);
}

TEST_CASE("all mistakes are reported at once, each with line, caret and hint") {
  const Outcome outcome = load(
      "recipe: x\n"
      "optimizer: {_target_: torch.optim.AdamW, lr: -1}\n"
      "distributed:\n"
      "  strategy: fsdp\n"
      "step_scheduler:\n"
      "  global_batch_size: 60\n"
      "  local_batch_size: 8\n"
      "seed: 1\n"
      "max_steps: 3\n"
      "seed: 2\n");
  CHECK(outcome.report.text() ==
        "r.yaml:2:46: optimizer.lr: must be above 0, got -1\n"
        "    optimizer: {_target_: torch.optim.AdamW, lr: -1}\n"
        "                                                 ^\n"
        "r.yaml:4:13: distributed.strategy: expected one of: fsdp2 | ddp | megatron_fsdp; got 'fsdp'\n"
        "      strategy: fsdp\n"
        "                ^\n"
        "    hint: did you mean 'fsdp2'?\n"
        "r.yaml:6:22: step_scheduler.global_batch_size: 60 is not a multiple of local_batch_size 8\n"
        "      global_batch_size: 60\n"
        "                         ^\n"
        "    hint: make it a multiple, or change local_batch_size\n"
        "r.yaml:9:1: max_steps: unknown key\n"
        "    max_steps: 3\n"
        "    ^\n"
        "    hint: did you mean 'step_scheduler.max_steps'?\n"
        "r.yaml:10:1: seed: key given twice\n"
        "    seed: 2\n"
        "    ^\n"
        "    hint: keep one of them\n");
  CHECK_THROWS_AS(outcome.report.throw_if_any(), Error);
  CHECK(has(outcome.report.json(), R"({"key":"distributed.strategy","message":"expected one of: fsdp2 | ddp | )"));
  CHECK(has(outcome.report.json(), R"("hint":"did you mean 'fsdp2'?","source":"r.yaml:4:13"})"));
}

TEST_CASE("missing required keys are named at their section") {
  const std::string text = load("seed: 1\ndataset: {split: x}\nparam_group_overrides: [{lr_mult: 2}]\n").report.text();
  CHECK(has(text, "r.yaml:1:1: recipe: missing; this key is required"));
  CHECK(has(text, "optimizer: missing"));
  CHECK(has(text, "r.yaml:2:10: dataset.dataset_name: missing"));
  CHECK(has(text, "r.yaml:3:25: param_group_overrides.0.pattern: missing"));
  Report empty;
  read<sample::Recipe>(parse_yaml("", "e.yaml"), empty);
  CHECK(empty.problems().size() == 2);
}

TEST_CASE("numbers are checked for type and range") {
  CHECK(with("seed: 1e3\n").recipe.seed == 1000);
  CHECK(with("seed: \"7\"\n").recipe.seed == 7);
  CHECK(has(errors("seed: 1.5\n"), "seed: expected a whole number, got 1.5"));
  CHECK(has(errors("seed: true\n"), "seed: expected a whole number, got true"));
  CHECK(has(errors("seed: none\n"), "hint: leave the key out for its default"));
  CHECK(has(errors("seed: [1]\n"), "seed: expected a whole number, got a list"));
  CHECK(has(errors("seed: 1e30\n"), "expected a whole number, got 1e30"));
  CHECK(has(errors("distributed: {pp_size: 3000000000}\n"), "does not fit 32 bits"));
  CHECK(has(errors("step_scheduler: {max_steps: 0}\n"), "step_scheduler.max_steps: must be above 0, got 0"));
  CHECK(has(load("recipe: x\noptimizer: {_target_: adam, lr: .nan}\n").report.text(), "expected a number above 0"));
}

TEST_CASE("elements of lists and maps are checked one by one") {
  CHECK(has(load("recipe: x\noptimizer: {_target_: adam, betas: [0.9, 1.0]}\n").report.text(),
            "r.yaml:2:42: optimizer.betas.1: must be below 1, got 1.0"));
  CHECK(has(load("recipe: x\noptimizer: {_target_: adam, betas: [0.9]}\n").report.text(), "expected 2 values, got 1"));
  CHECK(has(errors("wandb: {weights: {a: -1}}\n"), "wandb.weights.a: must be at least 0, got -1"));
  CHECK(has(errors("dataset: {dataset_name: x, columns: [question, anser]}\n"),
            "dataset.columns.1: expected one of: question | answer | context; got 'anser'"));
  CHECK(load("recipe: x\noptimizer: {_target_: adam, betas: \"(0.5, 0.6)\"}\n").report.empty());
}

TEST_CASE("booleans accept the words of YAML, quoted too") {
  CHECK(with("distributed: {mp_policy: {cast_forward_inputs: off}}\n").recipe.distributed.mp_policy->cast == false);
  CHECK(with("distributed: {mp_policy: {cast: \"yes\"}}\n").report.empty());
  CHECK(has(errors("distributed: {mp_policy: {cast: 1}}\n"), "expected true or false, got 1"));
}

TEST_CASE("text takes numbers as they were written, but not booleans") {
  CHECK(with("wandb: {project: 007}\n").recipe.wandb->project == "007");
  CHECK(with("wandb: {project: 1e-5}\n").recipe.wandb->project == "1e-5");
  CHECK(with("wandb: {project: 0.99, 0.01}\n").report.problems().size() == 1);  // a flow mapping ends at the comma
  CHECK(with("dataset:\n  dataset_name: x\n  split: 0.99, 0.01\n").recipe.datasets.at("default").split == "0.99, 0.01");
  CHECK(has(errors("wandb: {project: yes}\n"), "hint: quote it: \"yes\""));
  CHECK(with("wandb: {project: \"yes\"}\n").recipe.wandb->project == "yes");
  CHECK_FALSE(with("dataset: {dataset_name: x, revision: \"none\"}\n").recipe.datasets.at("default").revision);
}

TEST_CASE("number types accept every name, and null or a null word when optional") {
  CHECK(*with("model: {torch_dtype: torch.float16}\n").recipe.model.dtype == DType::kF16);
  CHECK(*with("model: {dtype: FP32}\n").recipe.model.dtype == DType::kF32);
  CHECK_FALSE(with("model: {torch_dtype: auto}\n").recipe.model.dtype);
  CHECK_FALSE(with("model: {torch_dtype: none}\n").recipe.model.dtype);
  CHECK(has(errors("model: {torch_dtype: bf15}\n"), "expected a number type"));
  CHECK(has(errors("model: {torch_dtype: bf16, dtype: bf16}\n"), "given under two names"));
}

TEST_CASE("enums accept aliases, case and booleans as their tables say") {
  CHECK(with("distributed: {strategy: MFSDP}\n").recipe.distributed.strategy == sample::Strategy::kMegatron);
  CHECK(with("save_consolidated: false\n").recipe.consolidated == sample::Consolidated::kNever);
  CHECK(with("save_consolidated: true\n").recipe.consolidated == sample::Consolidated::kEvery);
  CHECK(with("save_consolidated: \"false\"\n").recipe.consolidated == sample::Consolidated::kNever);
  CHECK(has(errors("save_consolidated: Final\n"), "did you mean 'final'?"));
}

TEST_CASE("targets choose the struct by full name, last component, moved path or bare text") {
  const auto lr = [](const std::string& text) {
    const Outcome outcome = load("recipe: x\noptimizer: " + text + "\n");
    CHECK(outcome.report.text() == "");
    return std::visit([](const auto& adam) { return adam.lr; }, outcome.recipe.optimizer);
  };
  CHECK(lr("{_target_: torch.optim.Adam}") == 1e-3);
  CHECK(lr("{_target_: adam}") == 1e-4);
  CHECK(lr("adam") == 1e-4);
  CHECK(lr("{_target_: adam, lr: 5}") == 5);
  for (const char* name : {"torch.optim.AdamW", "torch.optim.adamw.AdamW", "AdamW", "optim.AdamW", "torch.x.y.AdamW"}) {
    CAPTURE(name);
    const Outcome outcome = load("recipe: x\noptimizer: {_target_: " + std::string(name) + "}\n");
    REQUIRE(outcome.report.text() == "");
    CHECK(std::get<sample::AdamW>(outcome.recipe.optimizer).target == "torch.optim.AdamW");
  }
}

TEST_CASE("unknown, missing and foreign targets are errors with the nearest name") {
  const auto text = [](const std::string& target) {
    return load("recipe: x\noptimizer: {_target_: " + target + "}\n").report.text();
  };
  CHECK(has(text("torch.optim.AdmW"), "optimizer._target_: unknown target 'torch.optim.AdmW'"));
  CHECK(has(text("torch.optim.AdmW"), "did you mean 'torch.optim.AdamW'?"));
  CHECK(has(text("bitsandbytes.optim.AdamW"), "unknown target"));
  CHECK(has(text("SGDxyz"), "known targets: torch.optim.Adam, adam, torch.optim.AdamW, adamw"));
  CHECK(has(text("my/file.py:Thing"), "Python code of a recipe is not run"));
  CHECK(has(text("3"), "expected the name of a target, got 3"));
  CHECK(has(load("recipe: x\noptimizer: {lr: 1}\n").report.text(), "optimizer._target_: missing"));
  CHECK(has(errors("distributed: {mp_policy: {_target_: other.Policy}}\n"), "mp_policy._target_: unknown target"));
}

TEST_CASE("Class.method targets need both components") {
  Schema schema;
  schema.targets.push_back({{"pkg.Auto.from_pretrained"}, nullptr});
  CHECK(schema.find_target("pkg.inner.Auto.from_pretrained"));
  CHECK(schema.find_target("Auto.from_pretrained"));
  CHECK_FALSE(schema.find_target("from_pretrained"));
  CHECK_FALSE(schema.find_target("pkg.Other.from_pretrained"));
  CHECK_FALSE(schema.find_target("pkg.Auto.from_config"));
}

TEST_CASE("a key may hold a number, a text, a list or a section") {
  CHECK(std::get<int64_t>(with("step_scheduler: {preemption_signal: 15}\n").recipe.step_scheduler.signal) == 15);
  CHECK(std::get<std::string>(with("step_scheduler: {preemption_signal: usr1}\n").recipe.step_scheduler.signal) ==
        "usr1");
  CHECK(std::get<2>(with("step_scheduler: {preemption_signal: [TERM, INT]}\n").recipe.step_scheduler.signal).size() ==
        2);
  CHECK(has(errors("step_scheduler: {preemption_signal: true}\n"),
            "expected a whole number, or text, or a list of text, got true"));
  const Outcome text = with("dataset: {dataset_name: x, collate_fn: a.b}\n");
  CHECK(std::get<std::string>(text.recipe.datasets.at("default").collate_fn) == "a.b");
  const Outcome section = with("dataset: {dataset_name: x, collate_fn: {pad_seq_len_divisible: 8}}\n");
  CHECK(std::get<sample::Collate>(section.recipe.datasets.at("default").collate_fn).pad_seq_len_divisible == 8);
}

TEST_CASE("refused keys pass only harmless values") {
  CHECK(has(errors("distributed: {tp_size: 2}\n"),
            "r.yaml:3:24: distributed.tp_size: tensor parallelism is not supported; set tp_size: 1"));
  CHECK(errors("distributed: {tp_size: 1}\n") == "");
  CHECK(errors("distributed: {tp_size: 1.0}\n") == "");
  CHECK(errors("distributed: {tp_size: none}\n") == "");
  CHECK(has(errors("distributed: {tp_size: 0}\n"), "must be at least 1"));  // harmless, but out of range
  CHECK(has(errors("skypilot: {cloud: aws}\n"), "skypilot: SkyPilot is not supported; start the job with mpirun"));
  CHECK(errors("skypilot: null\n") == "");
  CHECK(errors("skypilot: {enabled: false, cloud: aws}\n") == "");
  CHECK(has(errors("model: {cuda_graph: true}\n"), "CUDA graphs are not supported"));
}

TEST_CASE("a refused key accepts its default and harmless values in any spelling") {
  for (const char* value : {"ddp", "DDP", "\"Ddp\"", "FSDP2", "null"}) {
    CAPTURE(value);
    CHECK(errors("distributed: {fallback: " + std::string(value) + "}\n") == "");
  }
  CHECK(has(errors("distributed: {fallback: mfsdp}\n"), "there is no other way"));
  CHECK(has(errors("distributed: {fallback: dpp}\n"), "there is no other way"));
  CHECK(errors("distributed: {autocast_dtype: torch.bfloat16}\n") == "");
  CHECK(has(errors("distributed: {autocast_dtype: fp16}\n"), "only bf16 sums are supported"));
}

TEST_CASE("keys without effect are noted, moved keys say where they went") {
  const Outcome outcome = with("ci: {a: 1}\n_x: 1\n_y: 2\ndistributed: {prefetch: true}\n");
  CHECK(outcome.report.text() == "");
  REQUIRE(outcome.report.notes().size() == 4);
  CHECK(outcome.report.notes()[0].message == "has no effect: only the upstream tests read it");
  CHECK(outcome.report.notes()[3].key == "distributed.prefetch");
  CHECK(has(errors("dataset: {dataset_name: x, num_samples: 3}\n"), "hint: it is now: dataset.limit"));
}

TEST_CASE("unknown keys get the nearest known key, or the known keys") {
  CHECK(has(errors("step_scheduler: {global-batch-size: 3}\n"), "did you mean 'global_batch_size'?"));
  CHECK(has(errors("optimiser: adamw\n"), "did you mean 'optimizer'?"));
  CHECK(has(errors("step_scheduler: {zzz: 3}\n"), "known keys: global_batch_size, local_batch_size, max_steps"));
  CHECK(has(errors("wandb: {tp_size: 2}\n"), "did you mean 'distributed.tp_size'?"));
  CHECK(nearest("stratgey", {"strategy"}) == "strategy");
  CHECK(nearest("xyz", {"strategy", "ab"}) == "");
}

TEST_CASE("null sections have their defaults, null keys too where the section says so") {
  CHECK(errors("step_scheduler:\nmodel: none\nwandb: null\n") == "");
  CHECK(with("distributed: {dp_size: null, pp_size: null}\n").recipe.distributed.sizes.pp_size == 1);
  CHECK(has(errors("step_scheduler: {local_batch_size: null}\n"), "expected a whole number above 0, got null"));
  CHECK(has(errors("step_scheduler: 3\n"), "step_scheduler: expected a mapping, got 3"));
}

TEST_CASE("checks of flattened structs run, and no check runs on damaged values") {
  CHECK(has(errors("distributed: {pp_size: 13}\n"), "r.yaml:3:24: distributed.pp_size: 13 stages bring bad luck"));
  const Outcome outcome = with("step_scheduler: {global_batch_size: 60, local_batch_size: many}\n");
  CHECK(outcome.report.problems().size() == 1);
  CHECK(with("step_scheduler: {global_batch_size: 60, local_batch_size: 8, typo: 1}\n").report.problems().size() == 2);
}

TEST_CASE("a section can be read on its own, under its path") {
  Report report;
  const Node node = parse_yaml("distributed: {strategy: x}\nnonsense: 1\n", "r.yaml");
  read<sample::Distributed>(*node.find("distributed"), report, "distributed");
  REQUIRE(report.problems().size() == 1);
  CHECK(report.problems()[0].key == "distributed.strategy");
  CHECK(report.problems()[0].origin.text() == "r.yaml:1:25");
}

TEST_CASE("JSON reads through the same description") {
  Report report;
  const Node node = parse_json("{\"torch_dtype\": \"bfloat16\",\n \"num_hidden_layers\": 2}", "config.json");
  const auto model = read<sample::Model>(node, report);
  CHECK(report.text() == "");
  CHECK(*model.dtype == DType::kBF16);
  CHECK(model.extra.find("num_hidden_layers")->as_int() == 2);
  CHECK_THROWS_AS(read_or_throw<sample::Model>(parse_json("{\n\"torch_dtype\": 3}", "config.json")), Error);
}

TEST_CASE("values of the environment do not appear in messages") {
  Report report;
  const Node node = parse_yaml("seed: ${SECRET}\n", "r.yaml", sample::variables({{"SECRET", "hunter2"}}));
  read<sample::Recipe>(node, report);
  CHECK(has(report.text(), "expected a whole number, got the value of ${SECRET}"));
  CHECK(report.text().find("hunter2") == std::string::npos);
}

#include "config/sample.h"

#include <fmt/core.h>

namespace sample {

void describe(config::Names<Strategy>& n) {
  n("fsdp2", Strategy::kFsdp2, "Shards everything.")("ddp", Strategy::kDdp)("megatron_fsdp", Strategy::kMegatron)(
      "mfsdp", Strategy::kMegatron)
      .ignore_case();
}

void describe(config::Names<Consolidated>& n) {
  n("false", Consolidated::kNever)("final", Consolidated::kFinal)("every", Consolidated::kEvery)("true",
                                                                                                 Consolidated::kEvery);
}

void describe(config::Fields<Policy>& f) {
  f.target({"torch.distributed.fsdp.MixedPrecisionPolicy"});
  f("param_dtype", &Policy::param_dtype, "Type in which parameters are gathered.");
  f("cast_forward_inputs", &Policy::cast, "Cast the inputs.").alias("cast");
}

void describe(config::Fields<Sizes>& f) {
  f.null_means_default();
  f("dp_size", &Sizes::dp_size, "Data-parallel ranks.").at_least(1);
  f("tp_size", &Sizes::tp_size, "Tensor-parallel ranks.")
      .at_least(1)
      .refused("tensor parallelism is not supported; set tp_size: 1", {"0"});
  f("pp_size", &Sizes::pp_size, "Pipeline stages.").at_least(1).null_is_default();
  f.check([](const Sizes& sizes, config::Problems& problems) {
    if (sizes.pp_size == 13) problems.add("pp_size", "13 stages bring bad luck", "take 12");
  });
}

void describe(config::Fields<Distributed>& f) {
  f.doc("How ranks share the work.");
  f("strategy", &Distributed::strategy, "How parameters are kept.");
  f.flatten(&Distributed::sizes);
  f("mp_policy", &Distributed::mp_policy, "Types of numbers.");
  f("fallback", &Distributed::fallback, "The other way.").refused("there is no other way", {"fsdp2"});
  f("autocast_dtype", &Distributed::autocast_dtype, "Type of sums.").refused("only bf16 sums are supported");
  f("prefetch", &Distributed::prefetch, "Gather ahead.").no_effect("gathers are always ahead");
}

void describe(config::Fields<Scheduler>& f) {
  f("global_batch_size", &Scheduler::global_batch_size, "Samples per step.").above(0);
  f("local_batch_size", &Scheduler::local_batch_size, "Samples per microbatch.").above(0);
  f("max_steps", &Scheduler::max_steps, "Steps at most.").above(0);
  f("preemption_signal", &Scheduler::signal, "The signal that asks for a checkpoint.");
  f.check([](const Scheduler& s, config::Problems& problems) {
    if (s.global_batch_size % s.local_batch_size == 0) return;
    problems.add("global_batch_size",
                 fmt::format("{} is not a multiple of local_batch_size {}", s.global_batch_size, s.local_batch_size),
                 "make it a multiple, or change local_batch_size");
  });
}

void describe(config::Fields<Adam>& f) {
  f.doc("Adam with coupled decay.");
  f.target({"torch.optim.Adam"});
  f.target({"adam"}, [](Adam& adam) { adam.lr = 1e-4; });
  f("lr", &Adam::lr, "Peak learning rate.").above(0);
  f("betas", &Adam::betas, "Decay of the running means.").each().at_least(0).below(1);
  f("weight_decay", &Adam::weight_decay, "Decay.").at_least(0);
}

void describe(config::Fields<AdamW>& f) {
  f.doc("AdamW with decoupled decay.");
  f.target({"torch.optim.AdamW", "torch.optim.adamw.AdamW"});
  f.target({"adamw"}, [](AdamW& adam) { adam.lr = 1e-4; });
  f.keep_target(&AdamW::target);
  f("lr", &AdamW::lr, "Peak learning rate.").above(0);
  f("betas", &AdamW::betas, "Decay of the running means.").each().at_least(0).below(1);
  f("weight_decay", &AdamW::weight_decay, "Decay.").at_least(0);
}

void describe(config::Fields<Collate>& f) {
  f.target({"pkg.datasets.utils.default_collater"});
  f("pad_seq_len_divisible", &Collate::pad_seq_len_divisible, "Pad to a multiple.").above(0);
}

void describe(config::Fields<Dataset>& f) {
  f("dataset_name", &Dataset::name, "What to read.").required();
  f("split", &Dataset::split, "Which part.");
  f("revision", &Dataset::revision, "Which version.");
  f("collate_fn", &Dataset::collate_fn, "How samples become a batch.");
  f("columns", &Dataset::columns, "Columns to keep.").one_or_list().each().one_of({"question", "answer", "context"});
  f.key("num_samples").renamed_to("dataset.limit");
}

void describe(config::Fields<Override>& f) {
  f("pattern", &Override::pattern, "Which parameters.").required();
  f("lr_mult", &Override::lr_mult, "Factor.").at_least(0);
}

void describe(config::Fields<Model>& f) {
  f("pretrained_model_name_or_path", &Model::path, "Folder of the model.");
  f("torch_dtype", &Model::dtype, "Type of the weights.").alias("dtype").none_word("auto");
  f.key("cuda_graph").refused("CUDA graphs are not supported; remove cuda_graph", config::is_off);
  f.allow_unknown(&Model::extra);
}

void describe(config::Fields<Tracker>& f) {
  f("project", &Tracker::project, "Name of the project.");
  f("api_key", &Tracker::api_key, "Key of the service.");
  f("handle", &Tracker::handle, "A name that nobody should see.").secret();
  f("weights", &Tracker::weights, "Weights by name.").each().at_least(0);
}

void describe(config::Fields<Recipe>& f) {
  f.doc("A recipe for tests.");
  f("recipe", &Recipe::recipe, "What to run.").required();
  f("seed", &Recipe::seed, "Base of all random numbers.");
  f("step_scheduler", &Recipe::step_scheduler, "When things happen.");
  f("model", &Recipe::model, "What is trained.");
  f("distributed", &Recipe::distributed, "How ranks share the work.");
  f("optimizer", &Recipe::optimizer, "How weights move.").required();
  f.group("dataset", &Recipe::datasets, "What is learnt.");
  f("param_group_overrides", &Recipe::groups, "Factors by name.");
  f("save_consolidated", &Recipe::consolidated, "When one file is written.");
  f("wandb", &Recipe::wandb, "A tracker.");
  f("raw", &Recipe::raw, "Kept as it is.");
  f.key("ci").no_effect("only the upstream tests read it");
  f.key("_*").no_effect("keys that start with _ are switched off");
  f.key("skypilot").refused("SkyPilot is not supported; start the job with mpirun", config::is_off);
}

config::Environment variables(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const std::string& name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional<std::string>(found->second);
  };
}

const char* const kRecipe = R"(recipe: Finetune
seed: 1_234
step_scheduler: {global_batch_size: 64, local_batch_size: 8, max_steps: none}
model:
  pretrained_model_name_or_path: some/model
  torch_dtype: bf16
  num_hidden_layers: 4
  rope_scaling: {type: yarn, factor: 4.0}
distributed:
  strategy: FSDP2
  dp_size: none
  tp_size: 1
  mp_policy:
    _target_: torch.distributed.fsdp.MixedPrecisionPolicy
    param_dtype: float32
optimizer: &adam
  _target_: torch.optim.AdamW
  lr: 1e-5
  betas: [0.9, 0.95]
dataset: {dataset_name: squad, split: "train[:100]", columns: question}
dataset_second:
  dataset_name: hellaswag
  collate_fn: {_target_: pkg.datasets.utils.default_collater, pad_seq_len_divisible: 16}
param_group_overrides:
  - {pattern: ".*bias", lr_mult: 0}
  - pattern: "emb[0-9]+$"
    lr_mult: .5
save_consolidated: every
wandb:
  api_key: abc
  handle: "me & myself: \"yes\""
  weights: {a: 1, b: 2.5}
raw: [1, {a: none, b: "none", c: 'it''s'}, [], {}, "", "~", "1e5", "multi\nline\ttext \u00e9"]
ci: {node: 1}
_old: 3
)";

}  // namespace sample

#include "train/recipe_config.h"

#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>

#include "config/config.h"
#include "core/error.h"
#include "core/file.h"

using namespace automodel;
using namespace automodel::train;

namespace {

// A recipe of ours; each test changes one line of it.
const char* const kRecipe = R"(recipe: TrainFinetuneRecipeForNextTokenPrediction
seed: 1234
step_scheduler:
  global_batch_size: 64
  local_batch_size: 8
  max_steps: 100
  ckpt_every_steps: 50
  val_every_steps: 50
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: some/folder
  torch_dtype: bf16
distributed:
  strategy: fsdp2
  dp_size: none
  tp_size: 1
  cp_size: 1
loss_fn:
  _target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy
dataset:
  _target_: text
  path: ["*.md"]
  seq_len: 256
  validation_fraction: 0.05
validation_dataset:
  _target_: text
  path: ["*.md"]
  seq_len: 256
  validation_fraction: 0.05
  split: validation
dataloader:
  _target_: torchdata.stateful_dataloader.StatefulDataLoader
  collate_fn: nemo_automodel.components.datasets.utils.default_collater
  shuffle: true
optimizer:
  _target_: torch.optim.Adam
  lr: 1e-5
  betas: [0.9, 0.999]
  eps: 1e-8
  weight_decay: 0
lr_scheduler:
  lr_decay_style: cosine
  min_lr: 1.0e-6
checkpoint:
  enabled: true
  checkpoint_dir: checkpoints/
  model_save_format: safetensors
  save_consolidated: final
)";

struct Read {
  LoadedRecipe recipe;
  config::Report report;
};

Read read(const std::string& yaml) {
  Read r;
  r.recipe = read_recipe(config::parse_yaml(yaml, "r.yaml"), r.report);
  return r;
}

// The recipe with a text replaced; the text must occur once. An empty `from` appends.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kRecipe;
  if (from.empty()) return text + to + "\n";
  const size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("A recipe reads into its sections") {
  const Read r = read(kRecipe);
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  const RecipeConfig& c = r.recipe.config;
  CHECK(c.base_seed() == 1234);
  CHECK(c.step_scheduler.global_batch_size == 64);
  CHECK(c.step_scheduler.max_steps == 100);
  CHECK(weights_source(c.model) == "some/folder");
  CHECK(model_dtype(c.model, DType::kF32) == DType::kBF16);
  CHECK(distributed::strategy_of(c.distributed) == distributed::Strategy::kFsdp2);
  CHECK(std::get<data::TextConfig>(c.dataset).seq_len == 256);
  REQUIRE(c.validation_datasets.size() == 1);
  CHECK(std::get<data::TextConfig>(c.validation_datasets.at("default")).split == data::Split::kValidation);
  CHECK(c.dataloader.shuffle == true);
  CHECK(!optim::resolve(c.optimizer).decoupled);
  REQUIRE(c.lr_scheduler);
  CHECK(c.lr_scheduler->min_lr == 1e-6);
  CHECK(c.checkpoint.save_consolidated == Consolidate::kFinal);
  CHECK(c.clip_grad_norm.max_norm == 1.0);
  CHECK(!c.sample);
}

TEST_CASE("The small recipe of the reference reads up to its dataset") {
  const Read r = read(R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 64, local_batch_size: 8, max_steps: 100, ckpt_every_steps: 50, val_every_steps: 50}
model: {_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path: meta-llama/Llama-3.2-1B}
distributed: {strategy: fsdp2, dp_size: none, tp_size: 1, cp_size: 1}
loss_fn: {_target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy}
dataset: {_target_: nemo_automodel.components.datasets.llm.squad.make_squad_dataset, dataset_name: rajpurkar/squad, split: train}
validation_dataset: {_target_: nemo_automodel.components.datasets.llm.squad.make_squad_dataset, dataset_name: rajpurkar/squad, split: validation, limit_dataset_samples: 64}
dataloader: {collate_fn: nemo_automodel.components.datasets.utils.default_collater, shuffle: true}
validation_dataloader: {collate_fn: nemo_automodel.components.datasets.utils.default_collater}
optimizer: {_target_: torch.optim.Adam, lr: 1e-5, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0}
checkpoint: {enabled: true, checkpoint_dir: checkpoints/, model_save_format: safetensors, save_consolidated: final}
)");
  REQUIRE_MESSAGE(r.report.problems().size() == 2, r.report.text());
  CHECK(r.report.problems()[0].key == "dataset._target_");
  CHECK(r.report.problems()[0].message.find("make_squad_dataset is not supported yet") != std::string::npos);
  CHECK(r.report.problems()[1].key == "validation_dataset._target_");
}

TEST_CASE("A single mistake gives a single error where it was made") {
  struct Mistake {
    const char* from;
    const char* to;
    const char* place;  // line:column: key
    const char* says;
  };
  const Mistake mistakes[] = {
      {"recipe: Train", "recipe: Trane", "1:9: recipe", "TrainFinetuneRecipeForNextTokenPrediction"},
      {"recipe: TrainFinetuneRecipeForNextTokenPrediction", "recipe: BenchmarkingRecipeForNextTokenPrediction",
       "1:9: recipe._target_", "not supported yet"},
      {"recipe: TrainFinetuneRecipeForNextTokenPrediction", "# no recipe", "recipe", "missing"},
      {"seed: 1234", "seed: -1", "2:7: seed", "at least 0"},
      {"seed: 1234", "sede: 1234", "2:1: sede", "seed"},
      {"global_batch_size: 64", "global_batch_size: 0", "4:22: step_scheduler.global_batch_size", "above 0"},
      {"global_batch_size: 64", "global_batch_size: 63", "4:22: step_scheduler.global_batch_size", "64"},
      {"global_batch_size: 64", "global_batch_size: many", "4:22: step_scheduler.global_batch_size", "'many'"},
      {"local_batch_size: 8", "local_batch_sise: 64", "5:3: step_scheduler.local_batch_sise", "local_batch_size"},
      {"ckpt_every_steps: 50", "ckpt_every_steps: -3", "7:21: step_scheduler.ckpt_every_steps", "above 0"},
      {"nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
       "nemo_automodel.NeMoAutoModelForSequenceClassification.from_pretrained", "10:13: model._target_",
       "not supported yet"},
      {"nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
       "nemo_automodel.NeMoAutoModelForCausalLM.form_pretrained", "10:13: model._target_", "did you mean"},
      {"pretrained_model_name_or_path: some/folder", "revision: main", "model.pretrained_model_name_or_path",
       "missing"},
      {"torch_dtype: bf16", "torch_dtype: bf17", "12:16: model.torch_dtype", "bf17"},
      {"torch_dtype: bf16", "torch_dtype: int8", "12:16: model.torch_dtype", "float32 or bfloat16"},
      {"torch_dtype: bf16", "backend: {attn: flesh}", "12:19: model.backend.attn", "flash"},
      {"torch_dtype: bf16", "num_labels: 2", "12:15: model.num_labels", "not supported yet"},
      {"strategy: fsdp2", "strategy: fsdp3", "14:13: distributed.strategy", "fsdp2"},
      {"dp_size: none", "dp_size: 3", "4:22: step_scheduler.global_batch_size", "72 or 48"},
      {"cp_size: 1", "cp_siez: 1", "17:3: distributed.cp_siez", "cp_size"},
      {"nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy", "nemo_automodel.components.loss.kd_loss.KDLoss",
       "19:13: loss_fn._target_", "KDLoss"},
      {"nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy", "MaskedCrossEntorpy", "19:13: loss_fn._target_",
       "MaskedCrossEntropy"},
      {"_target_: text\n  path: [\"*.md\"]\n  seq_len: 256\n  validation_fraction: 0.05\nvalidation",
       "_target_: text\n  path: [\"*.md\"]\n  seq_len: 0\n  validation_fraction: 0.05\nvalidation",
       "23:12: dataset.seq_len", "0"},
      {"split: validation", "split: validaton", "30:10: validation_dataset.split", "validation"},
      {"shuffle: true", "batch_size: 4", "34:15: dataloader.batch_size", "local_batch_size 8"},
      {"shuffle: true", "shuffle: maybe", "34:12: dataloader.shuffle", "maybe"},
      {"nemo_automodel.components.datasets.utils.default_collater", "my_collater", "33:15: dataloader.collate_fn",
       "my_collater"},
      {"torch.optim.Adam", "torch.optim.SGD", "36:13: optimizer._target_", "SGD"},
      {"lr: 1e-5", "lr: -1e-5", "37:7: optimizer.lr", "at least 0"},
      {"betas: [0.9, 0.999]", "betas: [0.9, 1.5]", "38:16: optimizer.betas.1", "below 1"},
      {"eps: 1e-8", "epsilon: 1e-8", "39:3: optimizer.epsilon", "eps"},
      {"shuffle: true", "group_by_length: true", "34:20: dataloader.group_by_length", "grouping"},
      {"lr_decay_style: cosine", "lr_decay_style: cosin", "42:19: lr_scheduler.lr_decay_style", "cosine"},
      {"min_lr: 1.0e-6", "min_lr: 1.0e-4", "43:11: lr_scheduler.min_lr", "min_lr"},
      {"min_lr: 1.0e-6", "lr_warmup_steps: 100", "43:20: lr_scheduler.lr_warmup_steps", "100"},
      {"enabled: true", "enabled: perhaps", "45:12: checkpoint.enabled", "perhaps"},
      {"model_save_format: safetensors", "model_save_format: torch_save", "47:22: checkpoint.model_save_format",
       "torch_save is not supported"},
      {"save_consolidated: final", "save_consolidated: finally", "48:22: checkpoint.save_consolidated", "final"},
      {"", "peft: {_target_: nemo_automodel.components._peft.lora.PeftConfig, dim: 8}", "49:7: peft", "LoRA"},
      {"", "wandb: {project: x}", "49:8: wandb", "training.jsonl"},
      {"", "packed_sequence: {packed_sequence_size: 1024}", "49:41: packed_sequence.packed_sequence_size", "packing"},
      {"", "device: gpu", "49:9: device", "cuda"},
      {"", "clip_grad_norm: {max_norm: big}", "49:28: clip_grad_norm.max_norm", "'big'"},
      {"", "launch: {nproc_per_node: 0}", "49:26: launch.nproc_per_node", "at least 1"},
      {"", "sample: {max_new_tokens: 4}", "sample.prompt", "missing"},
      {"", "skypilot: {cloud: aws}", "49:11: skypilot", "SkyPilot"},
      {"", "quantization: {load_in_4bit: true}", "49:15: quantization", "quantised"},
      {"", "benchmrk: {}", "49:1: benchmrk", "benchmark"},
  };
  for (const Mistake& mistake : mistakes) {
    CAPTURE(mistake.to);
    const Read r = read(with(mistake.from, mistake.to));
    REQUIRE_MESSAGE(r.report.problems().size() == 1, r.report.text());
    const std::string text = r.report.text();
    CHECK_MESSAGE(text.find(std::string(mistake.place) + ":") != std::string::npos, text);
    CHECK_MESSAGE(text.find(mistake.says) != std::string::npos, text);
  }
}

TEST_CASE("What is switched off or harmless passes") {
  const Read r = read(with("", R"(
rng: {_target_: nemo_automodel.components.training.rng.StatefulRNG, seed: 1111, ranked: true}
dist_env: {backend: nccl, timeout_minutes: 30, device_transport: staged}
wandb: {enable: false, project: x}
mlflow: null
fp8: {enabled: false, recipe_name: tensorwise}
peft: null
quantization: {load_in_4bit: false, bnb_4bit_quant_type: nf4}
packed_sequence: {packed_sequence_size: 0, split_across_pack: false}
compile: {enabled: true, mode: default}
ci: {recipe_owner: someone, time: 10}
clip_grad_norm: {max_norm: null}
mfu: {peak_tflops: 0.1}
nvtx: false
kd_ratio: null
_validation_dataset: {_target_: anything}
parallelizer: {_target_: x}
device: auto)"));
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(r.recipe.config.base_seed() == 1234);
  CHECK(r.recipe.config.dist_env.timeout_minutes == 30);
  CHECK(r.recipe.config.dist_env.device_transport == train::DeviceTransport::kStaged);
  CHECK(r.recipe.config.clip_grad_norm.max_norm == 1.0);
  CHECK(!r.recipe.notes.empty());
}

TEST_CASE("Clipping may be switched off, a seed may come from rng, a null validation set is none") {
  std::string text = with("seed: 1234", "rng: {seed: 7}");
  text = text.replace(text.find("validation_dataset:"), std::string("validation_dataset:").size(),
                      "clip_grad_norm: {max_norm: 0}\nvalidation_dataset_two: null\nvalidation_dataset_one:");
  const Read r = read(text);
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(r.recipe.config.base_seed() == 7);
  CHECK(r.recipe.config.clip_grad_norm.max_norm == 0);
  REQUIRE(r.recipe.config.validation_datasets.size() == 1);
  CHECK(r.recipe.config.validation_datasets.begin()->first == "one");
}

TEST_CASE("Every target of the loss reads as the same cross entropy") {
  for (const char* target :
       {"{_target_: MaskedCrossEntropy, fp32_upcast: true, ignore_index: -100, reduction: sum}",
        "{_target_: nemo_automodel.components.loss.linear_ce.FusedLinearCrossEntropy, logit_softcapping: 0}",
        "{_target_: nemo_automodel.components.loss.te_parallel_ce.TEParallelCrossEntropy, tp_group: null}",
        "{_target_: nemo_automodel.components.loss.chunked_ce.ChunkedCrossEntropy, chunk_len: 32}"}) {
    CAPTURE(target);
    const Read r = read(with("loss_fn:\n  _target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy",
                             std::string("loss_fn: ") + target));
    CHECK_MESSAGE(r.report.empty(), r.report.text());
  }
  const Read r = read(with("MaskedCrossEntropy", "MaskedCrossEntropy\n  ignore_index: 0"));
  CHECK(r.report.problems().size() == 1);
}

TEST_CASE("A model can be made from a config in the recipe") {
  const auto model_of = [](const std::string& model) {
    std::string text = kRecipe;
    const size_t begin = text.find("model:"), end = text.find("distributed:");
    text = text.substr(0, begin) + "tokenizer: byte\nmodel: " + model + "\n" + text.substr(end);
    return read(text);
  };
  const std::string target = "_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config";
  Read r = model_of("{" + target + ", config: {model_type: llama, hidden_size: 64}, num_hidden_layers: 2}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(config_source(r.recipe.config.model).empty());
  CHECK(model_dtype(r.recipe.config.model, std::nullopt) == DType::kBF16);
  config::Node changes = config_changes(r.recipe.config.model);
  CHECK(changes.find("model_type")->as_string() == "llama");
  CHECK(changes.find("hidden_size")->as_int() == 64);
  CHECK(changes.find("num_hidden_layers")->as_int() == 2);
  CHECK(changes.entries().size() == 3);

  r = model_of("{" + target +
               ", config: {_target_: transformers.AutoConfig.from_pretrained, name_or_path: a/b, x: 1}}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(config_source(r.recipe.config.model) == "a/b");
  CHECK(weights_source(r.recipe.config.model).empty());
  CHECK(config_changes(r.recipe.config.model).entries().size() == 1);

  r = model_of("{" + target + ", config: a/b, load_base_model: true, dtype: float32}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(weights_source(r.recipe.config.model) == "a/b");
  CHECK(model_dtype(r.recipe.config.model, std::nullopt) == DType::kF32);

  r = model_of("{" + target + ", config: {_target_: transformers.models.qwen3.configuration_qwen3.Qwen3Config}}");
  REQUIRE_MESSAGE(r.report.empty(), r.report.text());
  CHECK(config_changes(r.recipe.config.model).find("model_type")->as_string() == "qwen3");

  CHECK(model_of("{" + target + ", config: {hidden_size: 64}}").report.problems().size() == 1);
  CHECK(model_of("{" + target + "}").report.problems().size() == 1);
  CHECK(model_of("{" + target + ", config: {model_type: llama}, load_base_model: true}").report.problems().size() == 1);
}

TEST_CASE("Text without any tokenizer is told before anything is read") {
  const std::string inline_model =
      "model: {_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_config, config: {model_type: llama}}\n";
  std::string text = kRecipe;
  const size_t begin = text.find("model:"), end = text.find("distributed:");
  text = text.substr(0, begin) + inline_model + text.substr(end);
  const Read r = read(text);
  CHECK(r.report.problems().size() == 2);  // the dataset and the validation dataset
  CHECK(r.report.text().find("dataset.tokenizer: byte") != std::string::npos);
}

TEST_CASE("What depends on the number of ranks is checked when it is known") {
  const auto check = [](const std::string& yaml, int64_t world) {
    Read r = read(yaml);
    REQUIRE_MESSAGE(r.report.empty(), r.report.text());
    check_against_world(r.recipe, world, r.report);
    return r.report.text();
  };
  CHECK(check(kRecipe, 1) == "");
  CHECK(check(kRecipe, 8) == "");
  const std::string batch = check(kRecipe, 3);
  CHECK(batch.find("r.yaml:4:22: step_scheduler.global_batch_size: global_batch_size 64 is not a multiple of "
                   "local_batch_size 8 * 3 data-parallel ranks = 24") != std::string::npos);
  CHECK(batch.find("72 or 48") != std::string::npos);
  CHECK(check(with("dp_size: none", "dp_size: 4"), 4) == "");
  CHECK(check(with("dp_size: none", "dp_size: 4"), 8).find("r.yaml:15:12: distributed.dp_size") != std::string::npos);
  CHECK(check(with("  dp_size: none\n", ""), 5).find("global_batch_size") != std::string::npos);
}

TEST_CASE("The resolved recipe reads back as the same recipe") {
  const Read first = read(with("", "tokenizer: byte\nlaunch: {nproc_per_node: 2}\nsample: {prompt: \"void \"}"));
  REQUIRE_MESSAGE(first.report.empty(), first.report.text());
  const std::string text = first.recipe.yaml();
  const Read second = read(text);
  REQUIRE_MESSAGE(second.report.empty(), second.report.text());
  CHECK(second.recipe.yaml() == text);
  CHECK(text.find("global_batch_size: 64") != std::string::npos);
  CHECK(text.find("local_batch_size: 8") != std::string::npos);
  CHECK(text.find("strategy: fsdp2") != std::string::npos);
  CHECK(text.find("timeout_minutes") != std::string::npos);
  CHECK(first.recipe.yaml(true).find("r.yaml:4:22") != std::string::npos);
}

TEST_CASE("The resolved quickstart reads back as the same recipe") {
  const LoadedRecipe first = load_recipe({AUTOMODEL_SOURCE_DIR "/recipes/quickstart.yaml", {}});
  const std::string text = first.yaml();
  const Read second = read(text);
  REQUIRE_MESSAGE(second.report.empty(), second.report.text());
  CHECK(second.recipe.yaml() == text);
  CHECK(config_changes(second.recipe.config.model) == config_changes(first.config.model));
}

TEST_CASE("Overrides count like the file") {
  const std::string path = std::filesystem::temp_directory_path() / "automodel_recipe_test.yaml";
  write_file_atomically(path, kRecipe);
  const LoadedRecipe recipe = load_recipe({path,
                                           {"--optimizer.lr", "3e-4", "--distributed.strategy=ddp",
                                            "--validation_dataset", "none", "--step_scheduler.max_steps=5"}});
  CHECK(optim::resolve(recipe.config.optimizer).lr == 3e-4);
  CHECK(distributed::strategy_of(recipe.config.distributed) == distributed::Strategy::kDdp);
  CHECK(recipe.config.validation_datasets.empty());
  CHECK(recipe.yaml(true).find("--optimizer.lr") != std::string::npos);
  CHECK_THROWS_WITH_AS(load_recipe({path, {"--optimizer.lr", "fast"}}), doctest::Contains("--optimizer.lr"), Error);
  CHECK_THROWS_WITH_AS(load_recipe({path, {"stray"}}), doctest::Contains("stray"), Error);
  CHECK_THROWS_AS(load_recipe({"/no/such/recipe.yaml", {}}), Error);
  std::filesystem::remove(path);
}

TEST_CASE("Reading a recipe takes less than 20 ms") {
  read(kRecipe);  // describes the structs
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    const Read r = read(kRecipe);
    REQUIRE(r.report.empty());
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  MESSAGE("one recipe: " << best << " ms");
  CHECK(best < 20);
}

TEST_CASE("Every recipe of this repository reads") {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(AUTOMODEL_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    CAPTURE(entry.path().string());
    config::Report report;
    const LoadedRecipe recipe = load_recipe({entry.path(), {}}, report);
    REQUIRE_MESSAGE(report.empty(), report.text());
    check_against_world(recipe, recipe.config.launch.nproc_per_node.value_or(1), report);
    CHECK_MESSAGE(report.empty(), report.text());
    ++count;
  }
  CHECK(count > 0);
}

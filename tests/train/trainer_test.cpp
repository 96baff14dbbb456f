// The training loop on ranks that are threads: stopping and resuming, metrics, checkpoints.
#include "train/trainer.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "support/run_mesh.h"

using namespace automodel;
using nlohmann::json;

namespace {

// A folder of the test's own with a text in it.
struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-trainer-" + std::to_string(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
    Random random(5, "text");
    std::string text;
    for (uint64_t i = 0; text.size() < 3000; ++i) text += static_cast<char>('a' + random.below(26, i)), text += ' ';
    std::ofstream(path / "text.txt") << text;
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return (path / name).string(); }
  fs::path path;
};

std::string recipe(const Folder& folder, const std::string& strategy, const std::string& dtype) {
  std::string text = folder.file("text.txt");
  std::string file = folder.file(strategy + "-" + dtype + ".yaml");
  std::ofstream(file) << R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 8, local_batch_size: 2, max_steps: 9, num_epochs: 3, val_every_steps: 4, ckpt_every_steps: 100}
model:
  _target_: NeMoAutoModelForCausalLM.from_config
  config: {model_type: llama, vocab_size: 256, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2,
           num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: false}
  torch_dtype: )" << dtype
                      << R"(
distributed: {strategy: )"
                      << strategy << R"(}
loss_fn: {_target_: MaskedCrossEntropy}
optimizer: {_target_: torch.optim.AdamW, lr: 1.0e-2}
lr_scheduler: {lr_decay_style: cosine, lr_warmup_steps: 2}
tokenizer: byte
dataset: {_target_: text, path: ")"
                      << text << R"(", seq_len: 32, validation_fraction: 0.2}
validation_dataset: {_target_: text, path: ")"
                      << text << R"(", seq_len: 32, validation_fraction: 0.2, split: validation}
)";
  return file;
}

// Trains; with `stop_after` >= 0 a signal comes in that step.
void run_job(const std::string& recipe, const std::string& checkpoints, int ranks, int64_t stop_after = -1,
             std::vector<std::string> overrides = {}) {
  overrides.insert(overrides.end(), {"--checkpoint.checkpoint_dir", checkpoints});
  test::run_mesh(ranks, [&](comm::World& world) {
    train::Job job = train::prepare({recipe, overrides}, ranks, true);
    train::Trainer trainer(job, world);
    int64_t asked = job.resume.point ? job.resume.point->step + 1 : 0;
    int stopped = trainer.run([&] { return asked++ == stop_after ? 15 : 0; });
    CHECK(stopped == (stop_after >= 0 ? 15 : 0));
  });
}

std::vector<json> records(const std::string& file) {
  std::vector<json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

// step -> what must not depend on when the run was interrupted.
std::map<int, json> trace(const std::string& checkpoints) {
  std::map<int, json> out;
  for (const json& r : records(checkpoints + "/training.jsonl"))
    out[r["step"]] = {r["epoch"], r["loss"], r["grad_norm"], r["lr"], r["num_label_tokens"], r["num_tokens_per_step"]};
  return out;
}

}  // namespace

TEST_CASE("a run that is stopped at any step and resumed repeats the uninterrupted run bit for bit") {
  Folder folder;
  for (const char* strategy : {"fsdp2", "ddp"})
    for (const char* dtype : {"float32", "bfloat16"}) {
      CAPTURE(strategy);
      CAPTURE(dtype);
      std::string file = recipe(folder, strategy, dtype);
      std::string name = std::string(strategy) + dtype;
      std::string whole = folder.file(name + "-whole");
      run_job(file, whole, 2);
      auto expected = trace(whole);
      CHECK(expected.size() == 9);
      std::string weights = read_file(whole + "/LATEST/model.safetensors");
      std::string states = read_file(whole + "/LATEST/optimizer.safetensors");
      for (int64_t stop : {0, 3, 7}) {
        CAPTURE(stop);
        std::string parts = folder.file(name + "-parts" + std::to_string(stop));
        run_job(file, parts, 2, stop);
        CHECK(trace(parts).size() == static_cast<size_t>(stop) + 1);
        run_job(file, parts, 2);
        CHECK(trace(parts) == expected);
        CHECK(read_file(parts + "/LATEST/model.safetensors") == weights);
        CHECK(read_file(parts + "/LATEST/optimizer.safetensors") == states);
      }
    }
}

TEST_CASE("the records have the reference's fields in its order, and validation runs when it is due") {
  Folder folder;
  std::string out = folder.file("run");
  run_job(recipe(folder, "fsdp2", "float32"), out, 1);
  std::ifstream in(out + "/training.jsonl");
  std::string line;
  std::getline(in, line);
  nlohmann::ordered_json first = nlohmann::ordered_json::parse(line);
  std::vector<std::string> keys;
  for (const auto& item : first.items()) keys.push_back(item.key());
  CHECK(keys == std::vector<std::string>{"step", "epoch", "timestamp", "loss", "grad_norm", "lr", "mem", "tps",
                                         "tps_per_gpu", "mfu", "num_tokens_per_step", "num_label_tokens"});
  std::vector<int> validated;
  for (const json& r : records(out + "/validation.jsonl")) validated.push_back(r["step"]);
  CHECK(std::ranges::find(validated, 3) != validated.end());
  CHECK(std::ranges::find(validated, 7) != validated.end());
  CHECK(validated.back() == 8);
  CHECK(first["loss"].get<double>() > 5);
  CHECK(records(out + "/training.jsonl").back()["loss"].get<double>() < 4);
}

TEST_CASE("one, two and three ranks read the same samples and reach the same losses") {
  Folder folder;
  std::string file = recipe(folder, "fsdp2", "float32");
  std::string text = read_file(file);
  text.replace(text.find("fsdp2"), 5, "fsdp2, mp_policy: {param_dtype: float32}");
  text.replace(text.find("global_batch_size: 8, local_batch_size: 2"), 41, "global_batch_size: 6, local_batch_size: 1");
  std::ofstream(file) << text;
  std::vector<std::vector<json>> runs;
  for (int ranks : {1, 2, 3}) {
    std::string out = folder.file("ranks" + std::to_string(ranks));
    run_job(file, out, ranks);
    runs.push_back(records(out + "/training.jsonl"));
  }
  for (size_t r = 1; r < runs.size(); ++r) {
    REQUIRE(runs[r].size() == runs[0].size());
    for (size_t s = 0; s < runs[0].size(); ++s) {
      CAPTURE(s);
      CHECK(runs[r][s]["num_label_tokens"] == runs[0][s]["num_label_tokens"]);
      CHECK(std::abs(runs[r][s]["loss"].get<double>() - runs[0][s]["loss"].get<double>()) <
            1e-5 * runs[0][s]["loss"].get<double>());
    }
  }
}

TEST_CASE("a checkpoint directory of another model is refused") {
  Folder folder;
  std::string file = recipe(folder, "ddp", "float32");
  std::string out = folder.file("run");
  run_job(file, out, 1);
  std::string text = read_file(file);
  text.replace(text.find("hidden_size: 32"), 15, "hidden_size: 64");
  std::ofstream(file) << text;
  CHECK_THROWS_WITH_AS(run_job(file, out, 1), doctest::Contains("hidden_size"), Error);
}

TEST_CASE("activation checkpointing of a recipe reaches the engine and changes no number") {
  Folder folder;
  for (const char* strategy : {"fsdp2", "ddp"}) {
    CAPTURE(strategy);
    std::string file = recipe(folder, strategy, "bfloat16");
    std::string kept = folder.file(std::string(strategy) + "-kept");
    std::string again = folder.file(std::string(strategy) + "-again");
    run_job(file, kept, 2);
    run_job(file, again, 2, -1, {"--distributed.activation_checkpointing", "full"});
    CHECK(trace(again) == trace(kept));
    for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
      CHECK(read_file(again + "/LATEST/" + name) == read_file(kept + "/LATEST/" + name));
    }
    const auto checkpoints = [&](const char* value, const char* scope) {
      train::Job job =
          train::prepare({file,
                          {"--checkpoint.checkpoint_dir", folder.file("none"), "--distributed.activation_checkpointing",
                           value, "--distributed.activation_checkpointing_scope", scope}},
                         2, true);
      return train::engine_options(job).activation_checkpointing;
    };
    CHECK(checkpoints("true", "all"));
    CHECK(checkpoints("true", "vision+language"));
    CHECK(!checkpoints("true", "vision"));
    CHECK(!checkpoints("false", "all"));
  }
}

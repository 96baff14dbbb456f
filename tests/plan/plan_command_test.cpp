// `automodel plan` as a user and a program call it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/program.h"
#include "core/file.h"

using namespace automodel;
using cli_test::has;
using cli_test::Run;
using cli_test::run;
using nlohmann::json;

namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// A recipe for a model of which there is nothing but a config.json, and for data that is not there.
struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-plan-cli-" + std::to_string(::getpid()))) {
    fs::create_directories(path / "model");
    std::ofstream(path / "model/config.json")
        << R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
               "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
               "max_position_embeddings": 8192, "rope_theta": 500000.0, "torch_dtype": "bfloat16"})";
    std::ofstream(path / "large.yaml") << R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 1024, local_batch_size: 1, num_epochs: 1}
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: )" << (path / "model").string()
                                       << R"(
distributed: {strategy: fsdp2}
loss_fn: {_target_: MaskedCrossEntropy}
dataset: {_target_: text, path: nowhere/*.txt, seq_len: 8192}
optimizer: {_target_: torch.optim.AdamW, lr: 1.0e-5}
)";
  }
  ~Folder() { fs::remove_all(path); }
  std::string large() const { return "plan " + (path / "large.yaml").string(); }
  fs::path path;
};

json plan_json(const std::string& arguments) {
  const Run result = run(arguments + " --format json", false);
  CAPTURE(result.output);
  REQUIRE(result.code == 0);
  return json::parse(result.output);
}

double seconds_of(const std::string& arguments) {
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    auto begin = std::chrono::steady_clock::now();
    CHECK(run(arguments, false).code == 0);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

}  // namespace

TEST_CASE("a 70 B model is planned from its config.json alone, for as many ranks as are asked for") {
  Folder folder;
  json plan = plan_json(folder.large() + " --world-size 1024");
  CHECK(plan["status"] == "ok");
  CHECK(plan["model"]["parameters"] == 70'553'706'496);
  CHECK(plan["world_size"] == 1024);
  CHECK(plan["distributed"]["strategy"] == "fsdp2");
  CHECK(plan["batch"]["dp_size"] == 1024);
  CHECK(plan["batch"]["accumulation"] == 1);
  CHECK(plan["batch"]["tokens_per_step"] == 1024 * 8192);
  REQUIRE(plan["ranks"].size() == 1);
  CHECK(plan["ranks"][0]["count"] == 1024);
  const json& memory = plan["ranks"][0]["memory"];
  CHECK(memory["master_weights"] == 4 * int64_t{68'900'112});
  CHECK(memory["compute_weights"] == 2 * int64_t{68'900'112});
  CHECK(memory["classes"]["optimizer"]["peak"] == 8 * int64_t{68'900'112});
  CHECK(memory["peak"] > 100 * kGiB);
  for (const json& row : plan["ranks"][0]["traffic"]["rows"])
    CHECK(row["total_bytes"] == row["count"].get<int64_t>() * row["bytes"].get<int64_t>());
}

TEST_CASE("1,024 ranks are planned in under 100 ms and 100,000 in under a second, program start included") {
  Folder folder;
  double thousand = seconds_of(folder.large() + " --world-size 1024");
  double many = seconds_of(folder.large() + " --world-size 100000 --step_scheduler.global_batch_size 100000");
  MESSAGE("1,024 ranks: " << 1e3 * thousand << " ms; 100,000 ranks: " << 1e3 * many << " ms");
  CHECK(thousand < 0.1);
  CHECK(many < 1.0);
}

TEST_CASE("every recipe of the repository is planned at its full size") {
  Folder folder;
  const fs::path root = fs::path(AUTOMODEL_SOURCE_DIR) / "recipes";
  int recipes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".yaml") continue;
    ++recipes;
    // Pretrained models are not on this machine; the shape of another one does.
    const bool pretrained = read_file(entry.path()).find("from_pretrained") != std::string::npos;
    for (const char* ranks : {"1", "2"}) {
      const std::string arguments =
          "plan " + entry.path().string() + " --world-size " + ranks +
          (pretrained ? " --model.pretrained_model_name_or_path " + (folder.path / "model").string() : "");
      CAPTURE(arguments);
      json plan = plan_json(arguments);
      CHECK(plan["ranks"][0]["memory"]["peak"] > plan["ranks"][0]["memory"]["between_steps"]);
      CHECK((plan["ranks"][0]["traffic"]["sent_bytes"] > 0) == (plan["world_size"] > 1));
    }
  }
  CHECK(recipes >= 4);
}

TEST_CASE("without --world-size as many ranks are planned as train would start") {
  CHECK(plan_json("plan recipes/quickstart.yaml")["world_size"] == 2);
  CHECK(plan_json("plan recipes/mock/smoke.yaml")["world_size"] == 1);
}

TEST_CASE("the text names the model, the mesh, the batch, and tables of memory and calls") {
  const Run plan = run("plan recipes/mock/smoke.yaml --world-size 8 --gpus-per-node 4");
  CHECK(plan.code == 0);
  for (const char* part : {"on 8 ranks", "llama, 230 k weights (229,696)", "dp_shard 8", "fsdp2",
                           "32 samples a step = 4 local x 1 microbatch x 8 data-parallel ranks", "nodes 0-1",
                           "memory of each of ranks 0-7", "parameters", "activations", "in all", "calls of a step",
                           "reduce_scatter", "10 steps, 32 in an epoch"})
    CHECK_MESSAGE(has(plan, part), part);
}

TEST_CASE("a length that the data decides is assumed, and said") {
  json plan = plan_json(
      "plan recipes/mock/smoke.yaml --dataset '{_target_: mock_unpacked, max_sentence_len: 60, num_sentences: 100}'"
      " --dataloader.collate_fn.pad_seq_len_divisible 16");
  CHECK(plan["batch"]["sequence"] == 64);
  CHECK(plan["batch"]["assumed"].get<std::string>().find("max_sentence_len") != std::string::npos);
  json packed =
      plan_json("plan recipes/mock/smoke.yaml --dataset '{_target_: mock_packed, block_size: 96, num_blocks: 100}'");
  CHECK(packed["batch"]["packed"] == true);
  CHECK(packed["batch"]["sequence"] == 96);
  CHECK(packed["batch"]["assumed"] == nullptr);
}

TEST_CASE("data with fewer samples than a step takes makes the step smaller, and the plan says so") {
  json plan = plan_json("plan recipes/mock/smoke.yaml --dataset.num_samples 6 --dataset.batch_size 1 --world-size 2");
  const json& batch = plan["batch"];
  CHECK(batch["global_batch_size"] == 32);
  CHECK(batch["local_batch_size"] == 3);
  CHECK(batch["accumulation"] == 1);
  CHECK(batch["tokens_per_step"] == 3 * 1 * 2 * 128);
  CHECK(batch["assumed"] == "the data has 6 samples, fewer than the 32 of step_scheduler.global_batch_size");
}

TEST_CASE("every mistake is reported at once with exit code 2") {
  const std::string wrong =
      "plan recipes/mock/smoke.yaml --world-size 8 --step_scheduler.global_batch_size 30 --optimizer.lr -1"
      " --distributed.tp_size 3";
  const Run text = run(wrong);
  CHECK(text.code == 2);
  for (const char* part : {"optimizer.lr", "tp_size"}) CHECK_MESSAGE(has(text, part), part);
  const Run result = run(wrong + " --format json", false);
  CHECK(result.code == 2);
  json report = json::parse(result.output);
  CHECK(report["status"] == "error");
  CHECK(report["errors"].size() >= 2);
  for (const json& error : report["errors"]) CHECK_FALSE(error["message"].get<std::string>().empty());

  const Run absent =
      run("plan recipes/llama/finetune.yaml --model.pretrained_model_name_or_path /no/such --format json", false);
  CHECK(absent.code == 2);
  CHECK(json::parse(absent.output)["errors"][0]["message"].get<std::string>().find("/no/such") != std::string::npos);
}

TEST_CASE("--why says what forbids a choice, with the nearest legal values") {
  const Run why = run("plan recipes/mock/smoke.yaml --world-size 8 --why step_scheduler.local_batch_size=3");
  CHECK(why.code == 0);
  CHECK(has(why, "step_scheduler.local_batch_size = 3: not possible"));
  CHECK(has(why, "global_batch_size 32 is not a multiple of local_batch_size 3"));
  CHECK(has(why, "33 or 30"));
  CHECK(has(run("plan recipes/mock/smoke.yaml --why tp_size=2"), "distributed.tp_size = 2: not possible"));
}

TEST_CASE("--why says what a possible choice changes") {
  const Run why = run("plan recipes/mock/smoke.yaml --world-size 8 --why strategy=ddp --why seed=3");
  CHECK(why.code == 0);
  CHECK(has(why, "distributed.strategy = ddp: possible; it changes"));
  CHECK(has(why, "memory of a rank, peak"));
  CHECK(has(why, "sent by a rank in a step"));
  CHECK(has(why, "seed = 3: possible; neither memory nor traffic of a step changes"));
  json answers = plan_json("plan recipes/mock/smoke.yaml --world-size 8 --why world_size=4 --why tp_size=3")["why"];
  REQUIRE(answers.size() == 2);
  CHECK(answers[0]["allowed"] == true);
  CHECK(answers[0]["plan"]["world_size"] == 4);
  CHECK(answers[1]["allowed"] == false);
  CHECK(answers[1]["key"] == "distributed.tp_size");
  CHECK(answers[1]["errors"].size() >= 1);
  CHECK(run("plan recipes/mock/smoke.yaml --why tp_size").code == 2);
}

TEST_CASE("a dry run says what each rank will need") {
  const Run dry = run("train recipes/mock/smoke.yaml --nproc-per-node 2 --dry-run");
  CHECK(dry.code == 0);
  CHECK(has(dry, "each of the 2 ranks will need"));
}

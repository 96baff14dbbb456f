// Runs of a recipe whose model names dropout: one curve on any number of ranks and across a stop.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/rng.h"
#include "support/run_mesh.h"
#include "train/trainer.h"

using namespace automodel;
using nlohmann::json;

namespace {

struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-dropout-" + std::to_string(::getpid()))) {
    fs::create_directories(path);
    Random random(5, "text");
    std::ofstream text(path / "text.txt");
    for (uint64_t i = 0; i < 4000; ++i) text << static_cast<char>('a' + random.below(26, i));
    std::ofstream(path / "recipe.yaml") << R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 8, local_batch_size: 2, max_steps: 8, num_epochs: 2, ckpt_every_steps: 100}
model:
  _target_: NeMoAutoModelForCausalLM.from_config
  config: {model_type: gpt2, vocab_size: 256, n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64}
  torch_dtype: float32
distributed: {strategy: fsdp2}
optimizer: {_target_: torch.optim.AdamW, lr: 3.0e-3}
tokenizer: byte
dataset: {_target_: text, path: ")" << (path / "text.txt").string()
                                        << R"(", seq_len: 32}
)";
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

std::vector<double> losses(const Folder& folder, const std::string& name, int ranks, std::vector<std::string> overrides,
                           int64_t stop_after = -1) {
  std::string checkpoints = (folder.path / name).string();
  overrides.insert(overrides.end(), {"--checkpoint.checkpoint_dir", checkpoints});
  test::run_mesh(ranks, [&](comm::World& world) {
    train::Job job = train::prepare({(folder.path / "recipe.yaml").string(), overrides}, ranks, true);
    CHECK(job.warnings.empty());
    train::Trainer trainer(job, world);
    int64_t asked = 0;
    trainer.run([&] { return asked++ == stop_after ? 15 : 0; });
  });
  std::vector<double> out;
  std::ifstream in(checkpoints + "/training.jsonl");
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line)["loss"]);
  return out;
}

}  // namespace

TEST_CASE(
    "a recipe's model trains with the dropout of its config, the same on 1, 2 and 4 ranks, and resumes its masks") {
  Folder folder;
  auto one = losses(folder, "one", 1, {});
  REQUIRE(one.size() == 8);
  for (int ranks : {2, 4}) {
    auto several = losses(folder, std::to_string(ranks), ranks, {});
    REQUIRE(several.size() == one.size());
    CHECK(std::abs(several[0] - one[0]) < 1e-6 * one[0]);
    for (size_t i = 0; i < one.size(); ++i) CHECK(std::abs(several[i] - one[i]) < 1e-5 * one[i]);
  }
  auto stopped = losses(folder, "stopped", 1, {}, 3);
  CHECK(stopped.size() == 4);
  CHECK(losses(folder, "stopped", 1, {}) == one);

  CHECK(losses(folder, "seed", 1, {"--rng.seed", "43"})[0] != one[0]);
  CHECK(losses(folder, "none", 1,
               {"--model.config.resid_pdrop", "0", "--model.config.embd_pdrop", "0", "--model.config.attn_pdrop",
                "0"})[0] != one[0]);
}

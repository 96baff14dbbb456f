// Whole runs through the command line, with real mpirun.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "program.h"

using namespace automodel;
using cli_test::Folder;
using cli_test::has;
using cli_test::Run;
using cli_test::run;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// The smoke recipe in fp32 with checkpoints in `folder`.
std::string smoke(const std::string& folder, int ranks, const std::string& more = "") {
  return "train recipes/mock/smoke.yaml --distributed.mp_policy.param_dtype float32 --checkpoint.enabled true "
         "--checkpoint.checkpoint_dir " +
         folder + " --nproc-per-node " + std::to_string(ranks) + " " + more;
}

std::vector<json> records(const std::string& file) {
  std::vector<json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

}  // namespace

TEST_CASE("two processes under mpirun train as one does, for both strategies, and write one checkpoint format") {
  Folder folder("runs");
  Run one = run(smoke(folder / "one", 1));
  REQUIRE_MESSAGE(one.code == 0, one.output);
  auto expected = records(folder / "one/training.jsonl");
  REQUIRE(expected.size() == 10);
  std::vector<json> first;
  for (const char* strategy : {"fsdp2", "ddp"}) {
    CAPTURE(strategy);
    std::string where = folder / strategy;
    std::string more = std::string("--distributed.strategy ") + strategy + " --model.torch_dtype float32";
    if (strategy == std::string("ddp")) {
      // ddp has no policy: its compute type is the model's.
      Run ddp = run("train recipes/mock/smoke.yaml --checkpoint.enabled true --checkpoint.checkpoint_dir " + where +
                    " --nproc-per-node 2 " + more);
      REQUIRE_MESSAGE(ddp.code == 0, ddp.output);
    } else {
      Run fsdp = run(smoke(where, 2, more));
      REQUIRE_MESSAGE(fsdp.code == 0, fsdp.output);
    }
    auto got = records(where + "/training.jsonl");
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      double loss = got[i]["loss"], want = expected[i]["loss"];
      CHECK(std::abs(loss - want) < (i == 0 ? 1e-6 : 1e-5) * want);
      if (!first.empty()) CHECK(got[i]["loss"] == first[i]["loss"]);
      if (!first.empty()) CHECK(got[i]["grad_norm"] == first[i]["grad_norm"]);
    }
    if (first.empty()) first = got;
    Run sampled = run("generate " + where + " --prompt-ids 1,2,3 --max-new-tokens 4 --greedy --format json", false);
    CHECK(sampled.code == 0);
    CHECK(json::parse(sampled.output)["ids"].size() == 4);
  }
}

TEST_CASE("a rank that is killed ends the job with exit code 1, and what was saved stays usable") {
  Folder folder("runs");
  std::string where = folder / "run";
  // The rank is a child of the mpirun that the program started.
  Run killed = run(smoke(where, 2,
                         "--step_scheduler.max_steps 1000000 --step_scheduler.num_epochs 1000000 "
                         "--step_scheduler.ckpt_every_steps 5 >/dev/null & pid=$!; for i in $(seq 200); do [ -e " +
                             where +
                             "/LATEST ] && break; sleep 0.1; done; "
                             "kill -9 $(pgrep -P $(pgrep -P $pid) | tail -n 1); wait $pid"));
  CHECK(killed.code == 1);
  CHECK(fs::exists(where + "/LATEST/model.safetensors"));
  CHECK(run("generate " + where + " --prompt-ids 1 --max-new-tokens 1 --greedy --format json").code == 0);
}

TEST_CASE("SIGTERM leads to a checkpoint and exit code 143, and the next run resumes") {
  Folder folder("runs");
  std::string where = folder / "run";
  for (int ranks : {1, 2}) {
    fs::remove_all(where);
    Run stopped = run(smoke(where, ranks,
                            "--step_scheduler.max_steps 1000000 --step_scheduler.num_epochs 1000000 & pid=$!; for i in "
                            "$(seq 200); do [ -s " +
                                where + "/training.jsonl ] && break; sleep 0.1; done; kill -TERM $pid; wait $pid"));
    CHECK_MESSAGE(stopped.code == 143, stopped.output);
    REQUIRE(fs::exists(where + "/LATEST"));
    auto last = records(where + "/training.jsonl").back()["step"].get<int64_t>();
    Run resumed = run(smoke(where, ranks, "--step_scheduler.max_steps " + std::to_string(last + 3)));
    CHECK_MESSAGE(resumed.code == 0, resumed.output);
    CHECK(has(resumed, "resuming from"));
    CHECK(records(where + "/training.jsonl").back()["step"] == last + 2);
  }
}

TEST_CASE("bad input returns 2, names the culprit and starts no rank") {
  Folder folder("runs");
  auto refused = [&](const std::string& arguments, const std::string& word) {
    CAPTURE(arguments);
    Run result = run(smoke(folder / "never", 2, arguments));
    CHECK(result.code == 2);
    CHECK_MESSAGE(has(result, word), result.output);
    CHECK(!has(result, "mpirun noticed"));
    CHECK(!fs::exists(folder / "never"));
  };
  std::string pretrained = "--model._target_ NeMoAutoModelForCausalLM.from_pretrained --model.config none ";
  refused(pretrained + "--model.pretrained_model_name_or_path /no/such/model", "/no/such/model");
  refused("--step_scheduler.global_batch_size 9", "global_batch_size");
  refused("--model.config.model_type lama", "did you mean 'llama'");
  refused("--model.config.rope_scaling \"{'rope_type': 'yarn', 'factor': 2.0}\"", "yarn");
  refused("--dataset.num_samples 0", "num_samples");
  refused("--dataset.vocab_size 5000", "vocab_size");
  refused("--distributed.tp_size 3", "tp_size");
  refused("--optimizer.lr fast", "optimizer.lr");
  Run missing = run("train /no/such/recipe.yaml");
  CHECK(missing.code == 2);
  CHECK(has(missing, "/no/such/recipe.yaml"));
  // A shell that has no mpirun on its PATH.
  Run alone = run("--version >/dev/null; PATH=/nowhere " AUTOMODEL_BINARY " " + smoke(folder / "never", 2));
  CHECK(alone.code == 2);
  CHECK(has(alone, "openmpi-bin"));
}

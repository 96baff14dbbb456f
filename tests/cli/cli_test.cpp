// Runs the program as a user does and looks at what it prints and returns.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/file.h"
#include "program.h"

using namespace automodel;

using cli_test::has;
using cli_test::Run;
using cli_test::run;

namespace {

const char* const kQuick = "recipes/quickstart.yaml";

}  // namespace

TEST_CASE("Help names every command and shows examples") {
  const Run help = run("--help");
  CHECK(help.code == 0);
  for (const char* word : {"train", "eval", "config", "generate", "doctor", "--log-level", "Examples"})
    CHECK(has(help, word));
  CHECK(!has(help, "bench"));
  CHECK(has(run("train --help"), "--nproc-per-node"));
  CHECK(has(run("--version"), "automodel 0."));
}

TEST_CASE("A wrong command line returns 2 and says what is wrong") {
  for (const char* wrong :
       {"", "trian x.yaml", "train", "config", "train r.yaml --nproc-per-node 0", "train r.yaml --nproc-per-nod 2",
        "generate m", "generate m --prompt a --prompt-ids 1", "generate m --prompt a --greedy --temperature 2",
        "generate m --prompt a --top-p 2", "config r.yaml --format xml", "--log-level loud config r.yaml",
        "train r.yaml --hosts a:1 --hostfile /dev/null"}) {
    CAPTURE(wrong);
    const Run result = run(wrong);
    CHECK(result.code == 2);
    CHECK(!result.output.empty());
  }
  CHECK(has(run("train r.yaml --nproc-per-nod 2"), "--nproc-per-nod"));
}

TEST_CASE("A device that is asked for and not there returns 2, and says what is missing") {
  const std::string nowhere = "AUTOMODEL_CUDA_PLUGIN=/nowhere/libautomodel_cuda.so";
  for (const char* command :
       {"train recipes/quickstart.yaml --device cuda", "eval recipes/quickstart.yaml --device cuda",
        "train recipes/quickstart.yaml --nproc-per-node 2 --device cuda",
        "bench --model llama15m --steps 1 --device cuda"}) {
    CAPTURE(command);
    const Run result = run(command, true, nowhere);
    CHECK(result.code == 2);
    CHECK(has(result, "device: cuda cannot be used here: there is no libautomodel_cuda.so in /nowhere"));
  }
  // A plan counts for any device on any machine.
  const Run plan = run("plan recipes/quickstart.yaml --device cuda", true, nowhere);
  CHECK(plan.code == 0);
  CHECK(has(plan, "on cuda; compute in"));
  CHECK(has(run("plan recipes/quickstart.yaml", true, nowhere), "on cpu; compute in"));
  CHECK(run("generate nothing --prompt a --device gpu").code == 2);
}

TEST_CASE("doctor says why CUDA cannot be used, and what there is") {
  const Run text = run("doctor", true, "AUTOMODEL_CUDA_PLUGIN=/nowhere/libautomodel_cuda.so");
  CHECK(text.code == 0);
  CHECK(has(text, "CUDA          cannot be used: there is no libautomodel_cuda.so in /nowhere"));
  const Run result = run("doctor --format json", false, "AUTOMODEL_CUDA_PLUGIN=/nowhere/libautomodel_cuda.so");
  const auto cuda = nlohmann::json::parse(result.output)["cuda"];
  CHECK(cuda["usable"] == false);
  CHECK(cuda["plugin"].is_null());
  CHECK(cuda["devices"].empty());
  // A file that is no library.
  CHECK(has(run("doctor", true, "AUTOMODEL_CUDA_PLUGIN=" AUTOMODEL_SOURCE_DIR "/README.md"), "cannot be loaded"));
}

TEST_CASE("config shows every value with its origin") {
  const Run result = run(std::string("config ") + kQuick + " --optimizer.lr 5e-4 --checkpoint.enabled=false", false);
  CHECK(result.code == 0);
  CHECK(has(result, "global_batch_size: "));
  CHECK(has(result, "# recipes/quickstart.yaml:"));
  CHECK(has(result, "# --optimizer.lr"));
  CHECK(has(result, "lr: 0.0005"));
  CHECK(has(result, "enabled: false"));
  CHECK(has(result, "# default"));
}

TEST_CASE("config prints JSON for programs") {
  const Run good = run(std::string("config --format json ") + kQuick + " --seed 7", false);
  CHECK(good.code == 0);
  const auto json = nlohmann::json::parse(good.output);
  CHECK(json["status"] == "ok");
  CHECK(json["config"]["seed"] == 7);
  CHECK(json["origins"]["seed"] == "--seed");

  const Run bad = run(std::string("config --format json ") + kQuick + " --seed x --optimizer.lr y", false);
  CHECK(bad.code == 2);
  const auto errors = nlohmann::json::parse(bad.output);
  CHECK(errors["status"] == "error");
  CHECK(errors["errors"].size() == 2);
  CHECK(errors["errors"][0]["key"] == "seed");
}

TEST_CASE("config checks a recipe for a number of ranks") {
  CHECK(run(std::string("config ") + kQuick + " --world-size 2").code == 0);
  const Run wrong = run(std::string("config ") + kQuick + " --world-size 7");
  CHECK(wrong.code == 2);
  CHECK(has(wrong, "7 data-parallel ranks"));
}

TEST_CASE("doctor tells what the machine has and measures it") {
  const Run text = run("doctor", false);
  CHECK(text.code == 0);
  for (const char* word : {"processor", "math library", "oneDNN", "MPI", "memory copy"}) CHECK(has(text, word));
  const Run result = run("doctor --format json", false);
  CHECK(result.code == 0);
  const auto json = nlohmann::json::parse(result.output);
  CHECK(json.at("processor").at("usable_cores").get<int>() >= 1);
  CHECK(json.at("hosts").size() == 1);
  // A matrix product cannot beat the registers by more than what a noisy machine does to two measurements.
  const double peak = json.at("rates").at("peak_fp32_gflops"), product = json.at("rates").at("matmul_fp32_gflops");
  CHECK(product > 0.02 * peak);
  CHECK(product < 4 * peak);
  CHECK(json.at("rates").at("copy_gb_per_s").get<double>() > 0.1);
}

TEST_CASE("bench times steps of a known shape") {
  for (const char* dtype : {"fp32", "bf16"}) {
    const Run result =
        run(std::string("bench --model llama15m --batch 2 --seq 8 --steps 1 --format json --dtype ") + dtype, false);
    REQUIRE(result.code == 0);
    const auto json = nlohmann::json::parse(result.output);
    CHECK(json.at("dtype") == dtype);
    CHECK(json.at("tokens_per_s").get<double>() > 0);
    CHECK(json.at("share_of_peak").get<double>() > 0);
    CHECK(json.at("peak_rss_mb").get<double>() > 15e6 * 16 / (1 << 20));  // weights, gradients and two moments
  }
}

TEST_CASE("bench with activation checkpointing holds less at a time") {
  const std::string bench = "bench --model llama15m --batch 8 --seq 64 --steps 1 --format json ";
  const auto peak = [&](const char* more) {
    const Run result = run(bench + more, false);
    REQUIRE(result.code == 0);
    return nlohmann::json::parse(result.output).at("peak_tensor_mb").get<double>();
  };
  CHECK(peak("--activation-checkpointing") < 0.9 * peak(""));
  CHECK(has(run("bench --model llama70b"), "known are llama15m, "));
}

TEST_CASE("bench times a mesh, and says when the ranks cannot form it") {
  const std::string bench = "bench --model llama15m --batch 4 --seq 8 --steps 1 --format json ";
  const Run cut = run(bench + "--nproc-per-node 2 --tp 2 --sequence-parallel", false);
  REQUIRE_MESSAGE(cut.code == 0, cut.output);
  const auto json = nlohmann::json::parse(cut.output);
  CHECK(json.at("ranks") == 2);
  CHECK(json.at("mesh").at("tp") == 2);
  CHECK(json.at("mesh").at("dp") == 1);
  CHECK(json.at("mesh").at("sequence_parallel") == true);
  CHECK(json.at("tokens_per_s").get<double>() > 0);
  const Run piped =
      run(bench + "--nproc-per-node 2 --pp 2 --schedule ZBVZeroBubble --microbatches 4 --stage-layers 1,2,2,1", false);
  REQUIRE_MESSAGE(piped.code == 0, piped.output);
  const auto stages = nlohmann::json::parse(piped.output).at("mesh").at("stage_layers");
  CHECK(stages == nlohmann::json{1, 2, 2, 1});

  CHECK(has(run(bench + "--tp 2"), "no multiple of tp_size"));
  CHECK(has(run(bench + "--strategy ddp --sequence-parallel"), "needs the strategy fsdp2"));
  CHECK(has(run(bench + "--strategy zero"), "unknown strategy 'zero'"));
  CHECK(has(run(bench + "--nproc-per-node 2 --pp 2 --schedule zigzag"), "unknown schedule 'zigzag'"));
  CHECK(has(run(bench + "--nproc-per-node 2 --pp 2 --microbatches 3"), "cannot be cut into 3 microbatches"));
  CHECK(has(run(bench + "--nproc-per-node 2 --pp 2 --stage-layers 3,4"), "--stage-layers has 2 stages with 7 layers"));
}

TEST_CASE("config explains keys") {
  CHECK(has(run("config --explain optimizer.lr"), "Peak learning rate"));
  CHECK(has(run("config --explain"), "step_scheduler"));
  const Run unknown = run("config --explain optimzer.lr");
  CHECK(unknown.code == 2);
  CHECK(has(unknown, "optimzer.lr"));
  CHECK(has(run("config --explain distribted"), "did you mean 'distributed'"));
}

TEST_CASE("Mistakes in a recipe come all at once with their places") {
  const Run result = run(std::string("config ") + kQuick +
                         " --step_scheduler.max_steps -1 --optimizer.weight_decay=much --sede 1 --dataset.seq_len=0");
  CHECK(result.code == 2);
  for (const char* part :
       {"--step_scheduler.max_steps", "--optimizer.weight_decay", "did you mean 'seed'", "--dataset.seq_len"})
    CHECK_MESSAGE(has(result, part), result.output);
  const Run stray = run(std::string("config ") + kQuick + " --seed 1 stray");
  CHECK(stray.code == 2);
  CHECK(has(stray, "stray"));
  const Run missing = run("config no/such.yaml");
  CHECK(missing.code != 0);
  CHECK(has(missing, "no/such.yaml"));
}

TEST_CASE("A recipe may be named by an option, and train is what a recipe alone means") {
  CHECK(run(std::string("config -c ") + kQuick).code == 0);
  CHECK(run(std::string("config --config=") + kQuick).code == 0);
  const Run alone = run(std::string(kQuick) + " --seed x");
  CHECK(alone.code == 2);
  CHECK(has(alone, "--seed"));
}

TEST_CASE("Help and config answer within 50 ms") {
  for (const std::string& arguments : {std::string("--help"), std::string("config ") + kQuick}) {
    CAPTURE(arguments);
    double best = 1e9;
    for (int i = 0; i < 10; ++i) {
      const auto start = std::chrono::steady_clock::now();
      run(arguments);
      best =
          std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    MESSAGE(arguments << ": " << best << " ms");
    CHECK(best < 50);
  }
}

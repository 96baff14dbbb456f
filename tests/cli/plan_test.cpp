// `automodel plan --only distributed` as a user and a program see it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "program.h"

using namespace automodel;
using cli_test::has;
using cli_test::Run;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Recipe {
  explicit Recipe(const std::string& text)
      : path(fs::temp_directory_path() / ("automodel-plan-" + std::to_string(::getpid()) + ".yaml")) {
    std::ofstream(path) << text;
  }
  ~Recipe() { fs::remove(path); }
  // Only stdout, which is what a program reads.
  Run plan(const std::string& flags, bool with_errors = false) const {
    return cli_test::run("plan " + path.string() + " --only distributed " + flags, with_errors);
  }
  fs::path path;
};

}  // namespace

TEST_CASE("A section alone is planned as one JSON object") {
  const Recipe recipe("distributed:\n  strategy: fsdp2\n  tp_size: 2\n  sequence_parallel: true\nmodel: ignored\n");
  const Run run = recipe.plan("--world-size 8 --format json");
  REQUIRE(run.code == 0);
  const json out = json::parse(run.output);
  CHECK(out["status"] == "ok");
  CHECK(out["world_size"] == 8);
  CHECK(out["warnings"].empty());
  CHECK(out["distributed"]["strategy"] == "fsdp2");
  CHECK(out["distributed"]["strategy_options"]["sequence_parallel"] == true);
  CHECK(out["distributed"]["strategy_options"]["mp_policy"]["reduce_dtype"] == "float32");
  CHECK(out["distributed"]["mesh"]["shape"] == json({1, 1, 4, 1, 2}));
  CHECK(out["distributed"]["groups"]["dp"] == json::parse("[[0,2,4,6],[1,3,5,7]]"));
}

TEST_CASE("Every mistake of a section comes at once, with its place") {
  const Recipe recipe("distributed:\n  strategy: ddp\n  tp_size: 2\n  sequence_parallel: true\n  bogus: 1\n");
  const Run run = recipe.plan("--world-size 8 --format json");
  CHECK(run.code == 2);
  const json out = json::parse(run.output);
  CHECK(out["status"] == "error");
  REQUIRE(out["errors"].size() == 3);
  CHECK(out["errors"][0]["key"] == "distributed.tp_size");
  CHECK(out["errors"][0]["source"].get<std::string>().ends_with(".yaml:3:12"));
  CHECK(!out["errors"][0]["hint"].get<std::string>().empty());
  CHECK(out["errors"][1]["key"] == "distributed.sequence_parallel");
  CHECK(out["errors"][2]["key"] == "distributed.bogus");
  const Run text = recipe.plan("--world-size 8", true);
  CHECK(text.code == 2);
  for (const char* part : {":3:12: distributed.tp_size: tp_size is 2, but ddp", "sequence_parallel", "bogus"})
    CHECK(has(text, part));
}

TEST_CASE("Files that cannot be read are errors of the same form") {
  const Recipe broken("distributed: {tp_size: 2\n");
  const json out = json::parse(broken.plan("--format json").output);
  CHECK(out["status"] == "error");
  CHECK(out["errors"][0]["message"].get<std::string>().starts_with("not valid YAML"));
  CHECK(out["errors"][0]["source"].get<std::string>().find(".yaml:2:") != std::string::npos);
  const Run missing = cli_test::run("plan /no/such.yaml --only distributed --format json", false);
  CHECK(missing.code == 2);
  CHECK(json::parse(missing.output)["errors"][0]["source"] == "/no/such.yaml");
  const Run misplaced = Recipe("tp_size: 2\n").plan("--world-size 2", true);
  CHECK(misplaced.code == 2);
  CHECK(has(misplaced, "tp_size belongs into the distributed section"));
}

TEST_CASE("The text shows the mesh, the groups and what differs from the defaults") {
  const Recipe recipe(
      "distributed: {tp_size: 4, dp_replicate_size: 2, sequence_parallel: true, activation_checkpointing: full}\n");
  const Run run = recipe.plan("--world-size 16 --gpus-per-node 8", true);
  CHECK(run.code == 0);
  for (const char* part :
       {"strategy  fsdp2", "dp_replicate 2 x dp_shard 2 x tp 4 = 16 ranks", "activation checkpointing  full", "node 1",
        "across 2 nodes", "inside a node", "sequence_parallel: true"}) {
    CHECK_MESSAGE(has(run, part), run.output);
  }
  CHECK(has(Recipe("distributed: {pipeline: {}}\n").plan("", true), "warning: distributed.pipeline: has no effect"));
}

TEST_CASE("Overrides change what is planned, and --why says what forbids a choice") {
  const Recipe recipe("distributed: {}\nlaunch: {nproc_per_node: 4}\n");
  const json out =
      json::parse(recipe.plan("--distributed.tp_size 4 --format json --why tp_size=3 --why cp_size=2").output);
  CHECK(out["world_size"] == 4);
  CHECK(out["distributed"]["mesh"]["shape"] == json({1, 1, 1, 1, 4}));
  REQUIRE(out["why"].size() == 2);
  CHECK(out["why"][0]["possible"] == false);
  CHECK(out["why"][0]["problems"][0]["key"] == "distributed.tp_size");
  CHECK(out["why"][1]["possible"] == false);
  const Run text = recipe.plan("--world-size 8 --why tp_size=3 --why distributed.tp_size=2", true);
  CHECK(has(text, "tp_size=3: distributed.tp_size: the job's 8 ranks are no multiple"));
  CHECK(has(text, "distributed.tp_size=2: nothing in the set-up forbids it: dp_shard 4 x tp 2 = 8 ranks"));
  CHECK(recipe.plan("--world-size 8 --why tp_size").code == 2);
  CHECK(recipe.plan("--world-size 0").code == 2);
  CHECK(cli_test::run("plan x.yaml --only model").code == 2);
}

TEST_CASE("A hundred thousand ranks are planned within a second") {
  const Recipe recipe("distributed: {tp_size: 8, cp_size: 2}\n");
  const auto start = std::chrono::steady_clock::now();
  CHECK(recipe.plan("--world-size 100000 --gpus-per-node 8", true).code == 0);
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  MESSAGE(ms << " ms");
  CHECK(ms < 1000);
}

TEST_CASE("The text draws the schedule of a pipeline, or says why there is none") {
  const auto plan = [](const std::string& pipeline) {
    return Recipe("distributed:\n  pp_size: 4\n  pipeline: {" + pipeline + "}\n").plan("--world-size 4");
  };
  Run run = plan("pp_schedule: gpipe, pp_batch_size: 4");
  CHECK(run.code == 0);
  // (4 - 1) / (4 + 4 - 1) of the time.
  CHECK(has(run, "GPipe: 4 stages, 4 microbatches, bubble 42.9 %, at most 4 alive on a rank"));
  CHECK(has(run, "  pp 3   ...0123aabbccdd......"));
  run = plan("pp_schedule: zero_bubble, pp_batch_size: 8");
  CHECK(has(run, "InterleavedZeroBubble: 8 stages, 8 microbatches"));
  CHECK(has(run, "# for the weights"));
  run = plan("pp_schedule: Interleaved1F1B, pp_batch_size: 9");
  CHECK(run.code == 0);
  CHECK(has(run, "no schedule: Interleaved1F1B runs 9 microbatches in 2 equal rounds"));
}

TEST_CASE("A plan in JSON is one object whatever is wrong with the recipe or the command line") {
  const Recipe good("distributed: {tp_size: 2}\n");
  const auto only_error = [](const Run& run) {
    CHECK(run.code == 2);
    const json out = json::parse(run.output);  // stderr is empty, or this would be no JSON
    CHECK(out["status"] == "error");
    REQUIRE(out["errors"].size() == 1);
    return out["errors"][0];
  };
  const auto of_flags = [&](const std::string& flags) { return only_error(good.plan("--format json " + flags, true)); };
  CHECK(of_flags("--world-size 0")["source"] == "--world-size");
  CHECK(of_flags("--world-size=-1")["source"] == "--world-size");
  CHECK(of_flags("--world-size many")["message"] == "Value many not in range 1 to 1000000");
  CHECK(of_flags("--world-size 8 stray")["message"].get<std::string>().ends_with("stray"));
  CHECK(of_flags("--world-size 8 --why nonsense")["source"] == "--why nonsense");
  CHECK(of_flags("--world-size 8 --distributed.tp_size 3")["source"] == "--distributed.tp_size");
  CHECK(only_error(cli_test::run("plan --format=json"))["message"].get<std::string>().starts_with("plan needs"));

  const auto of_text = [&](const std::string& text) {
    return only_error(Recipe(text).plan("--world-size 8 --format json", true));
  };
  CHECK(of_text("")["message"] == "the recipe is empty");
  CHECK(of_text("[1, 2]\n")["message"] == "expected a mapping, got a list");
  CHECK(of_text("hello\n")["source"].get<std::string>().ends_with(".yaml:1:1"));
  CHECK(of_text("distributed: 3\n")["hint"] == "write distributed: {} for its defaults");
  CHECK(of_text("Distributed: {tp_size: 2}\n")["hint"] == "did you mean 'distributed'?");
  CHECK(of_text("tp_size: 2\n")["key"] == "tp_size");
  CHECK(of_text("distributed: {tp_size: *nope}\n")["message"] ==
        "not valid YAML: the referenced anchor is not defined");
  const Run none = Recipe("model: {}\n").plan("--world-size 8 --format json", true);
  CHECK(none.code == 0);
  CHECK(json::parse(none.output)["warnings"].size() == 1);
}

TEST_CASE("An answer to --why has the warnings that the change brings") {
  const Recipe recipe("distributed: {sequence_parallel: true}\n");
  const Run run = recipe.plan("--world-size 8 --format json --why pipeline.pp_schedule=gpipe --why a..b=1", true);
  REQUIRE(run.code == 0);
  const json why = json::parse(run.output)["why"];
  CHECK(why[0]["possible"] == true);
  REQUIRE(why[0]["warnings"].size() == 1);  // not the one about sequence_parallel
  CHECK(why[0]["warnings"][0].get<std::string>().starts_with("distributed.pipeline: has no effect"));
  CHECK(why[1]["possible"] == false);
}

// Meshes of two, four and eight processes through the command line, with real mpirun: each must log the losses of one
// process, whatever the axes.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "program.h"

using namespace automodel;
using cli_test::Folder;
using cli_test::Run;
using cli_test::run;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// A text that a model learns from in a few steps: the numbers in order, as words of digits.
void write_text(const std::string& file) {
  std::ofstream out(file);
  for (int i = 0; i < 6000; ++i) out << i << ' ';
}

// Everything in fp32, so that a mesh differs from one process by the order of its sums alone. A step is one to eight
// microbatches of each data-parallel rank.
std::string recipe_of(const std::string& text, const std::string& model) {
  return R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 16, local_batch_size: 2, max_steps: 5, val_every_steps: 2}
distributed: {strategy: fsdp2, mp_policy: {param_dtype: float32, reduce_dtype: float32}}
loss_fn: {_target_: MaskedCrossEntropy}
tokenizer: byte
dataset: {_target_: text, path: )" +
         text + R"(, seq_len: 64, validation_fraction: 0.1}
validation_dataset: {_target_: text, path: )" +
         text + R"(, seq_len: 64, validation_fraction: 0.1, split: validation}
optimizer: {_target_: torch.optim.AdamW, lr: 5.0e-3}
checkpoint: {enabled: false}
model:
  _target_: NeMoAutoModelForCausalLM.from_config
  torch_dtype: float32
)" + model;
}

// Grouped heads and a tied head.
const char* const kLlama = R"(  config: {model_type: llama, vocab_size: 256, hidden_size: 64, intermediate_size: 96,
    num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 2, tie_word_embeddings: true,
    max_position_embeddings: 128}
)";

const char* const kMixtral = R"(  config: {model_type: mixtral, vocab_size: 256, hidden_size: 64, intermediate_size: 96,
    num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 2, num_local_experts: 4, num_experts_per_tok: 2,
    max_position_embeddings: 128}
)";

struct Mesh {
  int ranks;
  std::string options;  // of the distributed section: `name value; name value`
  bool two_nodes = false;
};

// Starts processes on two network namespaces that are joined by a wire, as mpirun starts them on two machines.
const std::string kTwoNodes = AUTOMODEL_SHARED_DIR "/tools/netns_two_nodes.sh";

bool has_two_nodes() {
  return ::geteuid() == 0 && fs::exists(kTwoNodes) &&
         std::system(("timeout 60 bash " + kTwoNodes + " -n 2 -t 30 -- true >/dev/null 2>&1").c_str()) == 0;
}

std::vector<json> records(const std::string& file) {
  std::vector<json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

// As overrides.
std::string flags(const std::string& options) {
  std::string out;
  for (size_t at = 0; at < options.size();) {
    size_t end = std::min(options.find("; ", at), options.size());
    out += " --distributed." + options.substr(at, end - at);
    at = end + 2;
  }
  return out;
}

struct Losses {
  std::vector<json> training, validation;
};

Losses train(const std::string& recipe, const std::string& where, const Mesh& mesh) {
  std::string arguments = "train " + recipe + " --checkpoint.checkpoint_dir " + where + flags(mesh.options);
  std::string ranks = std::to_string(mesh.ranks);
  Run job = mesh.two_nodes ? run(arguments, true,
                                 "timeout 200 bash " + kTwoNodes + " -n " + ranks + " -t 180 -x OMP_NUM_THREADS=1 --")
                           : run(arguments + " --nproc-per-node " + ranks);
  REQUIRE_MESSAGE(job.code == 0, job.output);
  return {records(where + "/training.jsonl"), records(where + "/validation.jsonl")};
}

double apart(const json& a, const json& b, const char* field) {
  double x = a[field], y = b[field];
  return std::abs(x - y) / y;
}

void check_as_one(const Losses& mesh, const Losses& one) {
  REQUIRE(mesh.training.size() == 5);
  REQUIRE(mesh.validation.size() == one.validation.size());
  for (size_t i = 0; i < mesh.training.size(); ++i) {
    CAPTURE(i);
    CHECK(apart(mesh.training[i], one.training[i], "loss") < (i == 0 ? 1e-6 : 1e-5));
    CHECK(apart(mesh.training[i], one.training[i], "grad_norm") < 1e-4);
    for (const char* field : {"step", "epoch", "lr", "num_tokens_per_step", "num_label_tokens"})
      CHECK(mesh.training[i][field] == one.training[i][field]);
  }
  for (size_t i = 0; i < mesh.validation.size(); ++i) {
    CAPTURE(i);
    CHECK(mesh.validation[i]["step"] == one.validation[i]["step"]);
    CHECK(apart(mesh.validation[i], one.validation[i], "val_loss") < 1e-5);
  }
}

void check_meshes(const char* model, const std::vector<Mesh>& meshes) {
  // More processes than cores: threads of their own would only wait for each other.
  ::setenv("OMP_NUM_THREADS", "1", 1);
  Folder folder("meshes");
  write_text(folder / "text.txt");
  std::ofstream(folder / "recipe.yaml") << recipe_of(folder / "text.txt", model);
  Losses one = train(folder / "recipe.yaml", folder / "one", {1, ""});
  REQUIRE(one.training.size() == 5);
  REQUIRE(one.validation.size() == 3);
  // It learns, so a wrong gradient would show.
  CHECK(one.training.back()["loss"].get<double>() < 0.8 * one.training.front()["loss"].get<double>());
  for (size_t i = 0; i < meshes.size(); ++i) {
    CAPTURE(meshes[i].ranks);
    CAPTURE(meshes[i].options);
    check_as_one(train(folder / "recipe.yaml", folder / std::to_string(i), meshes[i]), one);
  }
}

}  // namespace

TEST_CASE("a dense model logs the losses of one process on every mesh of processes") {
  check_meshes(
      kLlama,
      {{2, "tp_size 2"},
       {2, "cp_size 2"},
       {2, "pp_size 2; pipeline '{pp_schedule: 1f1b, pp_microbatch_size: 1}'"},
       {4, "tp_size 2; sequence_parallel true"},
       {4, "dp_replicate_size 2"},
       {4, "pp_size 2; tp_size 2; pipeline '{pp_schedule: interleaved1f1b, pp_microbatch_size: 1}'"},
       {4, "cp_size 2; tp_size 2; sequence_parallel true"},
       {4, "tp_size 4; sequence_parallel true; enable_async_tensor_parallel true"},
       {4,
        "tp_size 2; sequence_parallel true; enable_async_tensor_parallel true; "
        "tp_plan '{layers.*.gate_proj: colwise, layers.*.up_proj: colwise, layers.*.down_proj: rowwise}'"},
       {8, "dp_replicate_size 2; tp_size 2; activation_checkpointing true"},
       {8, "pp_size 2; cp_size 2; pipeline '{pp_schedule: ZBVZeroBubble, pp_microbatch_size: 1}'"},
       {8, "pp_size 2; cp_size 2; tp_size 2; pipeline '{pp_schedule: InterleavedZeroBubble, pp_microbatch_size: 1}'"}});
}

TEST_CASE("a mixture of experts logs the losses of one process on every mesh of processes") {
  check_meshes(kMixtral,
               {{2, "ep_size 2"},
                {2, "pp_size 2; pipeline '{pp_schedule: gpipe, pp_microbatch_size: 1}'"},
                {4, "ep_size 4"},
                {4, "tp_size 2; ep_size 2"},
                {4, "cp_size 2; ep_size 2"},
                {8, "dp_replicate_size 2; ep_size 4"},
                {8, "pp_size 2; tp_size 2; ep_size 2; pipeline '{pp_schedule: DualPipeV, pp_microbatch_size: 1}'"}});
}

TEST_CASE("meshes over two nodes log the losses of one process") {
  if (!has_two_nodes()) {
    MESSAGE("skipped: needs root, network namespaces and " << kTwoNodes);
    return;
  }
  check_meshes(kLlama,
               {{4, "tp_size 2; sequence_parallel true; enable_async_tensor_parallel true", true},
                {4, "pp_size 2; cp_size 2; pipeline '{pp_schedule: ZBVZeroBubble, pp_microbatch_size: 1}'", true}});
  check_meshes(kMixtral, {{4, "tp_size 2; ep_size 4", true}});
}

// Checkpoints across meshes: what ranks on one mesh save, ranks on any other mesh read, and the run goes on as if
// nothing had happened. Through the trainer, on ranks that are threads.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/hf_model_dir.h"
#include "comm/world.h"
#include "core/file.h"
#include "core/log.h"
#include "support/run_mesh.h"
#include "train/job.h"
#include "train/trainer.h"
#include "train/trainer_state.h"
#include "train/weights.h"

using namespace automodel;
using nlohmann::json;

namespace {

const char* const kLlama = R"({model_type: llama, vocab_size: 256, hidden_size: 32, intermediate_size: 48,
  num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 2, tie_word_embeddings: true,
  max_position_embeddings: 64})";
const char* const kGpt2 = R"({model_type: gpt2, vocab_size: 256, n_embd: 32, n_layer: 4, n_head: 4, n_positions: 64,
  resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0})";
const char* const kMixtral = R"({model_type: mixtral, vocab_size: 256, hidden_size: 32, intermediate_size: 48,
  num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 2, num_local_experts: 4, num_experts_per_tok: 2,
  gate_bias_update_factor: 0.01, max_position_embeddings: 64})";

constexpr int kSteps = 6;
constexpr int64_t kStopIn = 2;  // the third step is the last one before the stop

struct Mesh {
  int ranks = 1;
  std::string options;  // overrides of the distributed section: `name value; name value`
};

// A folder of the test's own with a text in it that a model learns from in a few steps.
struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-checkpoint-mesh-" + std::to_string(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
    std::ofstream text(path / "text.txt");
    for (int i = 0; i < 1500; ++i) text << i << ' ';
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return (path / name).string(); }

  // `stored`: the type of the weights on disk. All arithmetic is fp32.
  std::string recipe(const char* model, const char* stored,
                     const char* strategy = "fsdp2, mp_policy: {param_dtype: float32, reduce_dtype: float32}") const {
    const std::string text = file("text.txt");
    std::ofstream(file("recipe.yaml")) << R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 8, local_batch_size: 2, max_steps: )"
                                       << kSteps << R"(, num_epochs: 9, val_every_steps: 2}
model: {_target_: NeMoAutoModelForCausalLM.from_config, torch_dtype: )"
                                       << stored << ", config: " << model << R"(}
distributed: {strategy: )" << strategy << R"(}
loss_fn: {_target_: MaskedCrossEntropy}
optimizer: {_target_: torch.optim.AdamW, lr: 5.0e-3}
lr_scheduler: {lr_decay_style: cosine, lr_warmup_steps: 2}
tokenizer: byte
dataset: {_target_: text, path: ")" << text
                                       << R"(", seq_len: 32, validation_fraction: 0.2}
validation_dataset: {_target_: text, path: ")"
                                       << text << R"(", seq_len: 32, validation_fraction: 0.2, split: validation}
)";
    return file("recipe.yaml");
  }

  fs::path path;
};

// Whole tensors put together from the slices of all ranks.
class WholeState {
 public:
  // Of one rank. Ranks that have the same element must have the same bits of it.
  void add(const engine::Engine& engine) {
    std::scoped_lock lock(mutex_);
    updates = engine.updates();
    for (const engine::StateSlice& s : engine.state()) {
      add(*s.param, s, s.master.data<float>(), "");
      add(*s.param, s, s.exp_avg.data<float>(), "exp_avg/");
      add(*s.param, s, s.exp_avg_sq.data<float>(), "exp_avg_sq/");
    }
    for (const engine::ExpertBias& bias : engine.expert_biases()) {
      std::vector<float> values(bias.values.begin(), bias.values.end());
      agree_ &= tensors.try_emplace(bias.name, values).first->second == values;
      agree_ &= std::ranges::any_of(values, [](float x) { return x != 0; });
    }
  }

  void check_complete() const {
    CHECK(agree_);
    REQUIRE(!tensors.empty());
    for (const auto& [name, values] : tensors) {
      CAPTURE(name);
      CHECK(std::ranges::none_of(values, [](float x) { return std::isnan(x); }));
    }
  }

  std::map<std::string, std::vector<float>> tensors;
  int64_t updates = -1;

 private:
  void add(const nn::Param& p, const engine::StateSlice& s, const float* from, const std::string& prefix) {
    std::vector<float>& to = tensors[prefix + p.name];
    to.resize(static_cast<size_t>(p.shape.numel()), NAN);
    for (const nn::ElementRun& run : nn::runs_of(p, s.begin, s.end))
      for (int64_t i = 0; i < run.count; ++i) {
        float value = from[run.local - s.begin + i];
        float& place = to[static_cast<size_t>(run.whole + i)];
        if (!std::isnan(place) && std::memcmp(&place, &value, sizeof value) != 0) agree_ = false;
        place = value;
      }
  }

  std::mutex mutex_;
  bool agree_ = true;
};

std::vector<std::string> overrides_of(const Mesh& mesh, const std::string& checkpoints) {
  std::vector<std::string> out{"--checkpoint.checkpoint_dir", checkpoints};
  std::istringstream options(mesh.options);
  for (std::string option; std::getline(options >> std::ws, option, ';');) {
    size_t space = option.find(' ');
    out.push_back("--distributed." + option.substr(0, space));
    out.push_back(option.substr(space + 1));
  }
  return out;
}

// Trains on a mesh: what its ranks had when they began, and when they ended.
struct Ends {
  WholeState first, last;
};
void run_job(const std::string& recipe, const std::string& checkpoints, const Mesh& mesh, bool stops, Ends& ends) {
  test::run_mesh(mesh.ranks, [&](comm::World& world) {
    train::Job job = train::prepare({recipe, overrides_of(mesh, checkpoints)}, mesh.ranks, true);
    train::Trainer trainer(job, world);
    ends.first.add(trainer.engine());
    int64_t asked = 0;
    trainer.run([&] { return stops && asked++ == kStopIn ? 15 : 0; });
    ends.last.add(trainer.engine());
  });
}

std::map<int, json> records(const std::string& file) {
  std::map<int, json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    json record = json::parse(line);
    out[record["step"]] = record;
  }
  return out;
}

void check_losses(const std::string& run, const std::string& whole) {
  for (const auto& [file, field] : {std::pair{"/training.jsonl", "loss"}, {"/validation.jsonl", "val_loss"}}) {
    auto got = records(run + file), expected = records(whole + file);
    REQUIRE(!expected.empty());
    REQUIRE(got.size() == expected.size());
    for (const auto& [step, want] : expected) {
      CAPTURE(file);
      CAPTURE(step);
      double loss = want[field];
      CHECK(std::abs(got[step][field].get<double>() - loss) < 1e-5 * loss);
      for (const char* same : {"epoch", "lr", "num_label_tokens"}) CHECK(got[step][same] == want[same]);
    }
  }
}

// What one rank makes of the weights alone, like any program that reads the folder.
void check_weights_alone(const std::string& recipe, const std::string& folder, const WholeState& saved) {
  auto world = comm::World::single();
  train::Job job = train::prepare({recipe, {"--checkpoint.enabled", "false"}}, 1, true);
  train::Trainer trainer(job, world);
  checkpoint::HfModelDir dir(folder);
  train::load_weights(trainer.engine(), *job.source.model, dir.tensors());
  WholeState read;
  read.add(trainer.engine());
  for (const auto& [name, values] : read.tensors)
    if (name.find('/') == std::string::npos) CHECK(values == saved.tensors.at(name));
}

struct Move {
  Mesh from;
  Mesh to;
};

void check_moves(const char* model, const char* stored, const std::vector<Move>& moves) {
  log::configure(log::Level::kOff);
  Folder folder;
  std::string recipe = folder.recipe(model, stored);
  std::string whole = folder.file("whole");
  Ends unbroken;
  run_job(recipe, whole, {}, false, unbroken);
  auto losses = records(whole + "/training.jsonl");
  REQUIRE(losses.size() == kSteps);
  CHECK(losses[kSteps - 1]["loss"].get<double>() < 0.9 * losses[0]["loss"].get<double>());

  for (const Move& move : moves) {
    CAPTURE(move.from.options);
    std::string origin = folder.file("origin");
    fs::remove_all(origin);
    Ends before;
    run_job(recipe, origin, move.from, true, before);
    before.last.check_complete();
    CHECK(records(origin + "/training.jsonl").size() == kStopIn + 1);
    if (std::string(stored) == "float32") check_weights_alone(recipe, origin + "/LATEST", before.last);
    for (const Mesh& mesh : {Mesh{}, move.to}) {
      CAPTURE(mesh.options);
      std::string moved = folder.file("moved");
      fs::remove_all(moved);
      fs::copy(origin, moved, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
      Ends after;
      run_job(recipe, moved, mesh, false, after);
      after.first.check_complete();
      after.last.check_complete();
      CHECK(after.first.updates == kStopIn + 1);
      CHECK(after.last.updates == kSteps);
      CHECK(after.first.tensors == before.last.tensors);
      check_losses(moved, whole);
    }
  }
}

}  // namespace

TEST_CASE("a dense run that stops on one mesh goes on, on any other, from the same bits and with the same losses") {
  check_moves(
      kLlama, "float32",
      {{{2, "tp_size 2; sequence_parallel true"}, {2, "cp_size 2"}},
       {{4, "tp_size 4"}, {2, ""}},  // more ranks than key and value heads
       {{2, "pp_size 2; pipeline {pp_schedule: 1f1b, pp_microbatch_size: 1}"}, {4, "tp_size 2"}},
       {{2, "cp_size 2"}, {4, "pp_size 2; tp_size 2; pipeline {pp_schedule: interleaved1f1b, pp_microbatch_size: 1}"}},
       {{4, "tp_size 2"}, {4, "dp_replicate_size 2"}},
       {{4, "dp_replicate_size 2"}, {3, "tp_size 1; cp_size 3"}},
       {{8, "pp_size 2; cp_size 2; tp_size 2; pipeline {pp_schedule: ZBVZeroBubble, pp_microbatch_size: 1}"},
        {8, "dp_replicate_size 2; tp_size 2; sequence_parallel true"}}});
}

TEST_CASE("fused projections and low-precision weights move between meshes bit for bit") {
  check_moves(kGpt2, "bfloat16",
              {{{4, "tp_size 2; sequence_parallel true"},
                {2, "pp_size 2; pipeline {pp_schedule: gpipe, pp_microbatch_size: 1}"}},
               {{4, "pp_size 2; tp_size 2; pipeline {pp_schedule: 1f1b, pp_microbatch_size: 1}"}, {4, "tp_size 4"}}});
}

TEST_CASE("a run of a mixture of experts moves between expert-parallel and other meshes") {
  check_moves(kMixtral, "float32",
              {{{2, "ep_size 2"}, {4, "ep_size 4"}},
               {{4, "ep_size 2; dp_replicate_size 2"}, {4, "tp_size 2; ep_size 2"}},
               {{8, "pp_size 2; tp_size 2; ep_size 2; pipeline {pp_schedule: 1f1b, pp_microbatch_size: 1}"},
                {2, "cp_size 2; ep_size 2"}}});
}

TEST_CASE("a run moves between meshes that cut different parts of the model") {
  const std::string attention =
      "tp_plan {layers.*.q_proj: colwise, layers.*.k_proj: colwise, layers.*.v_proj: colwise, layers.*.o_proj: "
      "rowwise}";
  const std::string mlp =
      "tp_plan {layers.*.gate_proj: colwise, layers.*.up_proj: colwise, layers.*.down_proj: rowwise}";
  check_moves(
      kLlama, "float32",
      {{{2, "tp_size 2; " + attention}, {4, "tp_size 2; sequence_parallel true; " + mlp}},
       {{2, "tp_size 2; sequence_parallel true; tp_plan {}"}, {2, "cp_size 2"}},
       {{4, "tp_size 2; sequence_parallel true; enable_async_tensor_parallel true; " + mlp}, {2, "tp_size 2"}}});
}

TEST_CASE("meshes that train alike bit for bit write the same checkpoint") {
  log::configure(log::Level::kOff);
  Folder folder;
  std::string recipe = folder.recipe(kLlama, "float32");
  std::string model, optimizer;
  auto same = [&](const std::vector<Mesh>& meshes) {
    for (const Mesh& mesh : meshes) {
      CAPTURE(mesh.options);
      std::string where = folder.file("run");
      fs::remove_all(where);
      Ends ends;
      run_job(recipe, where, mesh, true, ends);
      std::string weights = read_file(where + "/LATEST/model.safetensors");
      std::string states = read_file(where + "/LATEST/optimizer.safetensors");
      if (model.empty()) model = weights, optimizer = states;
      CHECK(weights == model);
      CHECK(states == optimizer);
    }
  };
  same({{4, "dp_replicate_size 1"},
        {4, "dp_replicate_size 2"},
        {4, "dp_replicate_size 2; activation_checkpointing true"}});
  // The compute type of these is the model's.
  folder.recipe(kLlama, "float32", "ddp");
  same({{4, ""}});
  folder.recipe(kLlama, "float32", "megatron_fsdp");
  same({{4, "zero_dp_strategy 1"}, {4, "zero_dp_strategy 3"}});
  recipe = folder.recipe(kLlama, "float32");
  model.clear();
  same({{8, "tp_size 2"}, {8, "tp_size 2; dp_replicate_size 2"}});
  model.clear();
  // The head is not tied: the gradients of a tied one meet on another rank, so in another order, in a V.
  folder.recipe(kMixtral, "float32");
  same({{2, "pp_size 2; pipeline {pp_schedule: 1f1b, pp_microbatch_size: 1}"},
        {2, "pp_size 2; pipeline {pp_schedule: gpipe, pp_microbatch_size: 1}"},
        {2, "pp_size 2; pipeline {pp_schedule: InterleavedZeroBubble, pp_microbatch_size: 1}"},
        {2, "pp_size 2; pipeline {pp_schedule: ZBVZeroBubble, pp_microbatch_size: 1}"}});
}

TEST_CASE("a loader goes on at the same sample, whatever the size of its microbatches") {
  std::vector<std::string> warnings;
  train::TrainerState saved{.at = {}, .loader = {2, 6}, .samples_per_batch = 4};
  CHECK(train::loader_place(saved, 4, warnings) == data::LoaderState{2, 6});
  CHECK(train::loader_place(saved, 2, warnings) == data::LoaderState{2, 12});
  CHECK(train::loader_place(saved, 8, warnings) == data::LoaderState{2, 3});
  CHECK(warnings.empty());
  CHECK(train::loader_place(saved, 10, warnings) == data::LoaderState{2, 2});
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find("the last 4 are read again") != std::string::npos);
}

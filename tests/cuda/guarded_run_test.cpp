// Whole runs of recipes with `device: cuda` on a device whose memory the host cannot touch: weights, checkpoints,
// resuming, validation and generation are the CPU's, and memory is as planned.
#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "cuda/backend.h"
#include "support/guarded_device.h"
#include "support/run_mesh.h"
#include "support/thread_link.h"
#include "train/auto_model.h"
#include "train/evaluation.h"
#include "train/generator.h"
#include "train/plan_job.h"
#include "train/trainer.h"

using namespace automodel;
using nlohmann::json;

namespace {

const char* const kGpt2 = R"({model_type: gpt2, vocab_size: 256, n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64})";
const char* const kMixtral = R"({model_type: mixtral, vocab_size: 256, hidden_size: 32, intermediate_size: 48,
  num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, num_local_experts: 4, num_experts_per_tok: 2,
  gate_bias_update_factor: 0.01, max_position_embeddings: 64})";

struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-guarded-" + std::to_string(::getpid()))) {
    log::configure(log::Level::kOff);
    cuda::use_plugin(test::guarded_plugin());
    fs::create_directories(path);
    std::ofstream text(path / "text.txt");
    for (int i = 0; i < 900; ++i) text << i << ' ';
  }
  ~Folder() { fs::remove_all(path); }

  std::string recipe(const char* model) const {
    std::string text = (path / "text.txt").string();
    std::ofstream(path / "recipe.yaml") << R"(
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 8, local_batch_size: 2, max_steps: 4, num_epochs: 9, val_every_steps: 2}
model: {_target_: NeMoAutoModelForCausalLM.from_config, torch_dtype: float32, config: )"
                                        << model << R"(}
distributed: {strategy: fsdp2, mp_policy: {param_dtype: float32, reduce_dtype: float32}}
optimizer: {_target_: torch.optim.AdamW, lr: 5.0e-3}
tokenizer: byte
dataset: {_target_: text, path: ")" << text
                                        << R"(", seq_len: 32, validation_fraction: 0.2}
validation_dataset: {_target_: text, path: ")"
                                        << text << R"(", seq_len: 32, validation_fraction: 0.2, split: validation}
)";
    return (path / "recipe.yaml").string();
  }
  std::string file(const std::string& name) const { return (path / name).string(); }

  fs::path path;
};

struct Run {
  int ranks = 1;
  std::vector<std::string> overrides = {};
};

// Trains into the folder `name`; `stops`: until the second step is done.
void train_on(const Folder& folder, const std::string& recipe, const Run& run, const std::string& device,
              const std::string& name, bool stops = false) {
  std::vector<std::string> overrides = run.overrides;
  overrides.insert(overrides.end(), {"--device", device, "--checkpoint.checkpoint_dir", folder.file(name)});
  test::run_mesh(run.ranks, [&](comm::World& world) {
    train::Job job = train::prepare({recipe, overrides}, run.ranks, true);
    train::Trainer trainer(job, world);
    CHECK(std::string(name_of(trainer.engine().allocator().device())) == device);
    int64_t asked = 0;
    trainer.run([&] { return stops && asked++ == 1 ? 15 : 0; });
  });
}

// What is written, without times and memory.
std::vector<json> records(const std::string& file) {
  std::vector<json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    json record = json::parse(line);
    for (const char* key : {"mem", "tps", "tps_per_gpu", "timestamp", "mfu"}) record.erase(key);
    out.push_back(record);
  }
  return out;
}

// A run that stopped did not validate then, so it is only the last validation that both have.
void check_same(const Folder& folder, const std::string& a, const std::string& b, bool stopped = false) {
  for (const char* file : {"/LATEST/model.safetensors", "/LATEST/optimizer.safetensors"}) {
    CAPTURE(file);
    CHECK(read_file(folder.file(a) + file) == read_file(folder.file(b) + file));
  }
  for (const char* file : {"/training.jsonl", "/validation.jsonl"}) {
    CAPTURE(file);
    auto expected = records(folder.file(a) + file), got = records(folder.file(b) + file);
    REQUIRE(!expected.empty());
    REQUIRE(!got.empty());
    if (stopped) CHECK(got.back() == expected.back());
    if (!stopped || file[1] == 't') CHECK(got == expected);
  }
}

}  // namespace

TEST_CASE("runs on a device leave the checkpoints and curves of the CPU, whole and stopped") {
  Folder folder;
  const std::vector<Run> runs{{},
                              {2, {}},
                              {2, {"--distributed.tp_size", "2", "--distributed.sequence_parallel", "true"}},
                              {4, {"--distributed.cp_size", "2"}},
                              {2,
                               {"--distributed.pp_size", "2", "--distributed.pipeline.pp_schedule", "1f1b",
                                "--distributed.pipeline.pp_microbatch_size", "1"}}};
  for (const char* model : {kGpt2, kMixtral}) {
    std::string recipe = folder.recipe(model);
    for (Run run : runs) {
      if (model == kMixtral && run.ranks == 2 && run.overrides.empty()) run.overrides = {"--distributed.ep_size", "2"};
      CAPTURE(model);
      CAPTURE(run.ranks);
      for (const char* name : {"cpu", "cuda", "stopped"}) fs::remove_all(folder.file(name));
      train_on(folder, recipe, run, "cpu", "cpu");
      train_on(folder, recipe, run, "cuda", "cuda");
      check_same(folder, "cpu", "cuda");
      train_on(folder, recipe, run, "cuda", "stopped", true);
      CHECK(records(folder.file("stopped") + "/training.jsonl").size() == 2);
      train_on(folder, recipe, run, "cuda", "stopped");
      check_same(folder, "cpu", "stopped", true);
    }
  }
}

TEST_CASE("a checkpoint of the CPU goes on, on a device, and the other way round") {
  Folder folder;
  std::string recipe = folder.recipe(kGpt2);
  train_on(folder, recipe, {}, "cpu", "whole");
  for (auto [first, second] : {std::pair("cpu", "cuda"), {"cuda", "cpu"}}) {
    fs::remove_all(folder.file("moved"));
    train_on(folder, recipe, {}, first, "moved", true);
    train_on(folder, recipe, {}, second, "moved");
    check_same(folder, "whole", "moved", true);
  }
}

TEST_CASE("text is generated on a device as on the CPU") {
  Folder folder;
  for (const char* model : {kGpt2, kMixtral}) {
    fs::remove_all(folder.file("cpu"));
    train_on(folder, folder.recipe(model), {}, "cpu", "cpu");
    std::vector<std::vector<int32_t>> texts;
    for (auto device : {train::DeviceChoice::kCpu, train::DeviceChoice::kCuda}) {
      comm::World world = comm::World::single();
      auto placed =
          train::AutoModelForCausalLM::from_pretrained(folder.file("cpu"), world, {.device = device, .trains = false});
      CHECK(placed->engine().allocator().device().is_cuda() == (device == train::DeviceChoice::kCuda));
      train::SamplingOptions options;
      options.max_new_tokens = 80;  // beyond what the model sees at a time
      options.context = 64;
      texts.push_back(train::generate(placed->engine(), {49, 50, 51}, options, {}));
    }
    CHECK(texts[0].size() == 80);
    CHECK(texts[0] == texts[1]);
  }
}

TEST_CASE("the memory of a run on a device is as planned, without its batches, which the host has") {
  Folder folder;
  const std::vector<Run> runs{{},
                              {2, {"--distributed.tp_size", "2"}},
                              {2, {"--distributed.cp_size", "2"}},
                              {4,
                               {"--distributed.pp_size", "2", "--distributed.pipeline.pp_schedule", "1f1b",
                                "--distributed.pipeline.pp_microbatch_size", "1"}}};
  std::string recipe = folder.recipe(kGpt2);
  for (const Run& run : runs) {
    CAPTURE(run.overrides.size());
    std::vector<std::string> overrides = run.overrides;
    overrides.insert(overrides.end(),
                     {"--device", "cuda", "--checkpoint.enabled", "false", "--checkpoint.checkpoint_dir",
                      folder.file("plan"), "--step_scheduler.max_steps", "3", "--validation_dataset", "null"});
    test::run_mesh(run.ranks, [&](comm::World& world) {
      train::Job job = train::prepare({recipe, overrides}, run.ranks, true);
      train::JobPlan plan = train::plan_job(job);
      train::Job again = train::prepare({recipe, overrides}, run.ranks, true);
      train::Trainer trainer(again, world);
      MemoryStats before = trainer.engine().allocator().stats();
      trainer.run({});
      MemoryStats after = trainer.engine().allocator().stats();
      for (const train::KindPlan& kind : plan.kinds) {
        if (!kind.ranks.has(job.setup->mesh_context, world.rank())) continue;
        CHECK(kind.plan.batch_bytes == 0);
        CHECK(kind.plan.first.current_total == before.current_total);
        CHECK(kind.plan.steady.current_total == after.current_total);
      }
    });
  }
}

TEST_CASE("a device that is asked for and not there is an error with the reason, and auto takes the CPU") {
  Folder folder;
  cuda::Plugin none = test::guarded_plugin();
  none.count_devices = [](std::string& why) {
    why = "the driver is on holiday";
    return 0;
  };
  static const cuda::Plugin kept = none;
  cuda::use_plugin(kept);
  CHECK_THROWS_WITH_AS(train::check_device(train::DeviceChoice::kCuda),
                       "device: cuda cannot be used here: the driver is on holiday; or write device: cpu", Error);
  CHECK(exit_code(Fault::kDevice) == 2);
  comm::World world = comm::World::single();
  train::RankDevice device(train::DeviceChoice::kAuto, world);
  CHECK(device.device().is_cpu());
  CHECK(&device.ranks() == &world.global());
  cuda::use_plugin(test::guarded_plugin());
  CHECK(train::RankDevice(train::DeviceChoice::kAuto, world).device().is_cuda());
  CHECK(train::RankDevice(train::DeviceChoice::kCpu, world).device().is_cpu());
}

TEST_CASE("a job that does not fit its device is refused with its plan, before anything is allocated") {
  Folder folder;
  train::Job job = train::prepare({folder.recipe(kGpt2), {"--device", "cuda"}}, 1, true);
  train::JobPlan plan = train::plan_job(job);
  int64_t peak = plan.largest().plan.peak_total();
  CHECK_NOTHROW(train::check_fits(plan, peak));
  try {
    train::check_fits(plan, peak - 1);
    FAIL("it was not refused");
  } catch (const Error& error) {
    CHECK(error.fault() == Fault::kDevice);
    for (const char* part : {"rank 0 needs ", "parameters 1", "activations ", "activation_checkpointing: true"}) {
      CAPTURE(part);
      CHECK(std::string(error.what()).find(part) != std::string::npos);
    }
  }
  // 1 GiB for each of two devices: three ranks share the first one with another, the second one is alone.
  test::run_mesh(3, [](comm::World& world) {
    int64_t share = world.local_rank() == 1 ? int64_t{1} << 30 : int64_t{1} << 29;
    CHECK(train::free_device_bytes(train::DeviceChoice::kAuto, world) == share);
    CHECK_FALSE(train::free_device_bytes(train::DeviceChoice::kCpu, world).has_value());
  });
}

TEST_CASE("ranks of a machine take its devices in turn, and ranks on unlike devices do not start") {
  Folder folder;
  test::run_mesh(3, [](comm::World& world) {
    train::RankDevice device(train::DeviceChoice::kCuda, world);
    CHECK(device.device().index == world.local_rank() % 2);
    device.check_all_alike();
  });
  test::run_mesh(2, [](comm::World& world) {
    train::RankDevice device(world.rank() == 0 ? train::DeviceChoice::kCuda : train::DeviceChoice::kCpu, world);
    CHECK_THROWS_AS(device.check_all_alike(), Error);
  });
}

namespace {

// A plugin whose devices talk to each other. A rank's thread says first which one it is.
thread_local int rank_of_thread = 0;

const cuda::Plugin& linked_plugin() {
  static test::ThreadNetwork network;
  static const cuda::Plugin plugin = [] {
    cuda::Plugin made = test::guarded_plugin();
    made.make_link = [](int index, std::string&) { return network.link(rank_of_thread, index); };
    return made;
  }();
  return plugin;
}

train::DeviceTransport transport_of(comm::World& world, train::DeviceTransport wanted) {
  rank_of_thread = world.rank();
  train::RankDevice device(train::DeviceChoice::kCuda, world, wanted);
  Tensor sum = Tensor::zeros({2}, DType::kF32, device.allocator());
  upload(sum, std::vector<float>{1, static_cast<float>(world.rank())});
  device.ranks().all_reduce({sum.raw(), 2, DType::kF32, sum.device()}, comm::Reduce::kSum);
  const int n = world.size();
  CHECK(to_host<float>(sum) == std::vector<float>{static_cast<float>(n), static_cast<float>(n * (n - 1) / 2)});
  CHECK(device.ranks().reduced(1, comm::Reduce::kSum) == n);
  return device.transport();
}

}  // namespace

TEST_CASE("GPU memory travels over NCCL where each rank has a device of its own, else by way of the host") {
  using train::DeviceTransport;
  Folder folder;
  cuda::use_plugin(linked_plugin());
  test::run_mesh(2, [](comm::World& world) {
    CHECK(transport_of(world, DeviceTransport::kAuto) == DeviceTransport::kNccl);
    CHECK(transport_of(world, DeviceTransport::kNccl) == DeviceTransport::kNccl);
    CHECK(transport_of(world, DeviceTransport::kStaged) == DeviceTransport::kStaged);
  });
  // Two of three share a device.
  test::run_mesh(3, [](comm::World& world) {
    CHECK(transport_of(world, DeviceTransport::kAuto) == DeviceTransport::kStaged);
    CHECK(transport_of(world, DeviceTransport::kNccl) == DeviceTransport::kNccl);
  });
  cuda::use_plugin(test::guarded_plugin());
  test::run_mesh(2, [](comm::World& world) {
    CHECK(transport_of(world, DeviceTransport::kAuto) == DeviceTransport::kStaged);
    try {
      train::RankDevice(train::DeviceChoice::kCuda, world, DeviceTransport::kNccl);
      FAIL("it was not refused");
    } catch (const Error& error) {
      CHECK(error.fault() == Fault::kDevice);
      CHECK(error.what() ==
            fmt::format("dist_env.device_transport: nccl cannot be used: rank 0 cannot use it (rank {}: "
                        "devices of the tests have no NCCL); write auto or staged, or mend that",
                        world.rank()));
    }
  });
}

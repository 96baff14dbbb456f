// The loaders: what they accept, what they refuse and how, and that what they make trains like any other.
#include "train/auto_model.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <type_traits>

#include "config/config.h"
#include "core/error.h"
#include "core/file.h"
#include "support/engine_fixture.h"
#include "support/run_mesh.h"
#include "train/moved_keywords.h"
#include "train/recipe_config.h"

using namespace automodel;
using namespace automodel::train;
using distributed::DDPConfig;
using distributed::DistributedSetup;
using distributed::FSDP2Config;

namespace {

const std::string kLlama = AUTOMODEL_SOURCE_DIR "/tests/golden/llama";
const std::string kLlamaBias = AUTOMODEL_SOURCE_DIR "/tests/golden/llama_bias";

// A mesh context is no mesh: passing one does not compile.
static_assert(!std::is_convertible_v<const distributed::MeshContext*, const comm::DeviceMesh*>);

// One row of 8 tokens with its labels.
nn::Tokens row() {
  std::vector<int32_t> ids{1, 5, 9, 2, 7, 3, 8, 4};
  std::vector<int32_t> labels{5, 9, 2, 7, 3, 8, 4, 6};
  return support::make_tokens(1, 8, ids, labels);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

config::Node small_config() {
  return config::parse_yaml(
      "{model_type: llama, vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3, "
      "num_attention_heads: 6, num_key_value_heads: 3, head_dim: 8}",
      "small");
}

// In fp32, so that only the ranks differ.
FSDP2Config fp32() {
  FSDP2Config config;
  config.mp_policy = distributed::MixedPrecisionPolicy{DType::kF32, DType::kF32, DType::kF32, true};
  return config;
}

}  // namespace

TEST_CASE("Without a set-up there is no strategy, no policy and a mesh of nobody") {
  const ResolvedSetup resolved = resolve_setup({});
  CHECK(!resolved.mesh_context.device_mesh());
  CHECK(!resolved.strategy_config);
  CHECK(!resolved.pipeline_config);
  CHECK(!resolved.moe_parallel_config);
  CHECK(resolved.activation_checkpointing == distributed::ActivationCheckpointing::kNone);
  CHECK(resolved.mesh_context.tp_size() == 1);
}

TEST_CASE("A mesh alone brings its axes and no strategy") {
  const comm::DeviceMesh mesh({{"dp", 2}, {"tp", 2}});
  const ResolvedSetup resolved = resolve_setup({.device_mesh = &mesh});
  CHECK(resolved.mesh_context.device_mesh());
  CHECK(!resolved.mesh_context.moe_mesh());
  CHECK(resolved.mesh_context.tp_size() == 2);
  CHECK(!resolved.strategy_config);
  CHECK(!resolved.pipeline_config);
  CHECK(!resolved.moe_parallel_config);
  CHECK(resolved.activation_checkpointing == distributed::ActivationCheckpointing::kNone);
}

TEST_CASE("A set-up brings its meshes, strategy, policies and checkpointing") {
  const auto setup = DistributedSetup::build({.strategy = FSDP2Config{},
                                              .parallelism_sizes = {.ep_size = 2},
                                              .activation_checkpointing = distributed::ActivationCheckpointing::kFull,
                                              .world_size = 4});
  const ResolvedSetup resolved = resolve_setup({.distributed_setup = &setup});
  CHECK(resolved.mesh_context.device_mesh());
  CHECK(resolved.mesh_context.moe_mesh());
  REQUIRE(resolved.strategy_config);
  CHECK(std::holds_alternative<FSDP2Config>(*resolved.strategy_config));
  CHECK(resolved.moe_parallel_config);
  CHECK(resolved.activation_checkpointing == distributed::ActivationCheckpointing::kFull);
}

TEST_CASE("A set-up and a mesh together are refused, and so is an axis of an unknown name") {
  const auto setup = DistributedSetup::build({.world_size = 2});
  const comm::DeviceMesh mesh({{"dp", 2}});
  CHECK(has(message_of([&] { resolve_setup({.distributed_setup = &setup, .device_mesh = &mesh}); }),
            "either distributed_setup or device_mesh, not both"));
  const comm::DeviceMesh odd({{"data", 2}, {"tp", 1}});
  const std::string said = message_of([&] { resolve_setup({.device_mesh = &odd}); });
  CHECK(has(said, "'data'"));
  CHECK(has(said, "dp_shard_cp"));
}

TEST_CASE("Retired keywords are found whatever their order, and only they") {
  const std::vector<std::string> given{
      "tp_plan", "pipeline_config",          "torch_dtype", "moe_mesh", "Tp_plan",
      "tp_size", "activation_checkpointing", "moe_config",  "mesh",     "distributed_config"};
  CHECK(retired_keywords(given) == std::vector<std::string>{"activation_checkpointing", "distributed_config",
                                                            "moe_config", "moe_mesh", "pipeline_config", "tp_plan"});
  CHECK(retired_keywords(std::vector<std::string>{"tp_size", "strategy", "mesh"}).empty());
}

TEST_CASE("A recipe refuses every moved keyword beside the model and says where it is now") {
  for (const MovedKeyword& moved : moved_keywords()) {
    CAPTURE(moved.name);
    config::Report report;
    read_recipe(config::parse_yaml("{recipe: TrainFinetuneRecipeForNextTokenPrediction, loss_fn: MaskedCrossEntropy, "
                                   "optimizer: {_target_: adamw, lr: 1e-3}, dataset: {_target_: mock}, "
                                   "step_scheduler: {global_batch_size: 1, local_batch_size: 1, max_steps: 1}, "
                                   "model: {_target_: NeMoAutoModelForCausalLM.from_pretrained, "
                                   "pretrained_model_name_or_path: x, " +
                                       std::string(moved.name) + ": 1}}",
                                   "r.yaml"),
                report);
    REQUIRE_MESSAGE(report.problems().size() == 1, report.text());
    CHECK(report.problems()[0].key == "model." + std::string(moved.name));
    CHECK(report.problems()[0].message == "this key has moved");
    CHECK(report.problems()[0].hint == "it is now: " + std::string(moved.now));
  }
}

TEST_CASE("Every recorded case of the reference's loader keywords is decided as there") {
  const fs::path file = fs::path(AUTOMODEL_SHARED_DIR) / "conformance" / "from_pretrained.jsonl";
  if (!fs::exists(file)) {
    MESSAGE("skipped: there is no " << file.string());
    return;
  }
  const auto setup = DistributedSetup::build({.strategy = FSDP2Config{}, .world_size = 4});
  const comm::DeviceMesh good({{"dp", 2}, {"tp", 2}});
  const comm::DeviceMesh odd({{"data", 2}, {"tp", 2}});
  int cases = 0, compiler = 0;
  std::istringstream lines(read_file(file));
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line);
    CAPTURE(record["id"]);
    ++cases;
    const bool fails = record["status"] == "error";
    const auto retired = retired_keywords(record["extra_keywords"].get<std::vector<std::string>>());
    if (!retired.empty()) {
      std::string list;
      for (const std::string& name : retired) list += (list.empty() ? "['" : ", '") + name + "'";
      CHECK(fails);
      CHECK(has(record["error_message"], list + "]"));
      continue;
    }
    const std::string mesh = record["device_mesh"];
    LoadOptions options;
    if (record["distributed_setup"] != "none") options.distributed_setup = &setup;
    if (mesh == "DeviceMesh(dp,tp)") options.device_mesh = &good;
    if (mesh == "DeviceMesh(data,tp)") options.device_mesh = &odd;
    if (mesh == "MeshContext") {  // the compiler refuses it
      CHECK(fails);
      ++compiler;
      continue;
    }
    std::optional<ResolvedSetup> resolved;
    const std::string said = message_of([&] { resolved = resolve_setup(options); });
    CHECK(said.empty() == !fails);
    if (!resolved) continue;
    CHECK(resolved->strategy_config.has_value() == !record["strategy"].is_null());
    CHECK(resolved->mesh_context.device_mesh().has_value() == record["has_device_mesh"].get<bool>());
    CHECK(resolved->mesh_context.moe_mesh().has_value() == record["has_moe_mesh"].get<bool>());
    CHECK(resolved->pipeline_config.has_value() == !record["pipeline"].is_null());
    CHECK(resolved->moe_parallel_config.has_value() == !record["moe"].is_null());
    CHECK(resolved->activation_checkpointing == distributed::ActivationCheckpointing::kNone);
  }
  MESSAGE(cases << " cases, of which the compiler decides " << compiler);
  CHECK(cases > 0);
}

TEST_CASE("A model that is loaded without a set-up is the one in the folder") {
  comm::World world = comm::World::single();
  auto model = AutoModelForCausalLM::from_pretrained(kLlama, world, {.torch_dtype = DType::kF32, .trains = false});
  engine::EngineOptions options;
  options.trains = false;
  support::EngineFixture by_hand(kLlama, options);
  CHECK(model->engine().evaluate(row()) == by_hand.engine.evaluate(row()));
  CHECK(model->info().model_type == "llama");
  CHECK(model->source().id == kLlama);
  CHECK(!model->tokenizer());
  CHECK(model->data_ranks().size() == 1);
}

TEST_CASE("A set-up spreads the model over the ranks, and every strategy and number of ranks trains alike") {
  const auto losses_of = [](int ranks, const distributed::StrategyArgument& strategy, int64_t replicas = 1) {
    std::vector<double> losses;
    test::run_mesh(ranks, [&](comm::World& world) {
      const auto setup = DistributedSetup::build(
          {.strategy = strategy, .parallelism_sizes = {.dp_replicate_size = replicas}, .world_size = world.size()});
      LoadOptions options{.distributed_setup = &setup, .torch_dtype = DType::kF32, .seed = 7};
      auto model = AutoModelForCausalLM::from_config(small_config(), world, options);
      CHECK(model->data_ranks().size() == world.size());
      std::vector<double> mine;
      for (int step = 0; step < 3; ++step) {
        std::vector<nn::Tokens> batch;
        for (int i = 0; i < 4 / world.size(); ++i) batch.push_back(row());
        mine.push_back(model->engine().step({batch, 32, 1e-2, 0}).loss);
      }
      if (world.is_main()) losses = mine;
    });
    return losses;
  };
  const std::vector<double> one = losses_of(1, fp32());
  CHECK(one[2] < one[0]);
  for (int ranks : {2, 4}) {
    CAPTURE(ranks);
    const std::vector<double> sharded = losses_of(ranks, fp32());
    const std::vector<double> whole = losses_of(ranks, DDPConfig{});
    CHECK(sharded == whole);
    if (ranks == 4) CHECK(sharded == losses_of(ranks, fp32(), 2));
    for (size_t i = 0; i < one.size(); ++i) CHECK(sharded[i] == doctest::Approx(one[i]).epsilon(1e-5));
  }
}

TEST_CASE("With a mesh alone every rank has a whole model to itself") {
  test::run_mesh(4, [&](comm::World& world) {
    const comm::DeviceMesh mesh({{"dp", 4}, {"tp", 1}});
    auto model =
        AutoModelForCausalLM::from_config(small_config(), world, {.device_mesh = &mesh, .torch_dtype = DType::kF32});
    CHECK(model->data_ranks().size() == 1);
    CHECK(model->mesh_context().dp_size() == 4);
    int64_t elements = 0;
    for (const engine::StateSlice& slice : model->engine().state()) elements += slice.end - slice.begin;
    CHECK(elements == nn::count_elements(model->model().params()));
  });
}

TEST_CASE("Everything that keeps a model from being placed is told at once") {
  const auto setup = DistributedSetup::build({.parallelism_sizes = {.tp_size = 4, .pp_size = 4},
                                              .pipeline_config = distributed::PipelineConfig{},
                                              .world_size = 16});
  comm::World world = comm::World::single();
  const std::string said =
      message_of([&] { AutoModelForCausalLM::from_config(small_config(), world, {.distributed_setup = &setup}); });
  for (const char* part :
       {"the set-up is for 16 ranks, the job has 1", "tp_size 4 does not divide the model's 6 attention heads",
        "3 key/value heads", "the nearest sizes that fit: 3 or 6", "pp_size 4 is more than the model's 3 layers"})
    CHECK_MESSAGE(has(said, part), said);
}

TEST_CASE("A set-up's plan says what tensor-parallel ranks cut, and what is wrong with it is told") {
  const auto setup_of = [](std::map<std::string, std::string> plan, bool async) {
    FSDP2Config strategy = fp32();
    strategy.tp_plan = std::move(plan);
    strategy.enable_async_tensor_parallel = async;
    return DistributedSetup::build({.strategy = strategy, .parallelism_sizes = {.tp_size = 4}, .world_size = 4});
  };
  // Four ranks cannot share six heads; they can share the MLPs.
  const auto mlp = setup_of(
      {{"layers.*.gate_proj", "colwise"}, {"layers.*.up_proj", "colwise"}, {"layers.*.down_proj", "rowwise"}}, false);
  test::run_mesh(4, [&](comm::World& world) {
    auto model = AutoModelForCausalLM::from_config(small_config(), world,
                                                   {.distributed_setup = &mlp, .torch_dtype = DType::kF32});
    for (const nn::Param* p : model->model().params()) CHECK(p->kept.empty() == !has(p->name, ".mlp."));
  });
  const auto wrong = setup_of({{"layers.*.gate_proj", "colwise"}}, true);
  test::run_mesh(4, [&](comm::World& world) {
    const std::string said =
        message_of([&] { AutoModelForCausalLM::from_config(small_config(), world, {.distributed_setup = &wrong}); });
    for (const char* part : {"tp_plan.layers.*.gate_proj: model.layers.0.mlp.gate_proj is cut, but not",
                             "enable_async_tensor_parallel: is true, but sequence_parallel is false"})
      CHECK_MESSAGE(has(said, part), said);
  });
}

TEST_CASE("A mesh alone that cannot cut the model is refused, one that can is not") {
  comm::World world = comm::World::single();
  const comm::DeviceMesh four({{"dp", 1}, {"tp", 4}}), three({{"dp", 1}, {"tp", 3}});
  CHECK(has(message_of([&] { AutoModelForCausalLM::from_config(small_config(), world, {.device_mesh = &four}); }),
            "tp_size 4 does not divide the model's 6 attention heads"));
  CHECK(AutoModelForCausalLM::from_config(small_config(), world, {.device_mesh = &three})->mesh_context().tp_size() ==
        3);
}

TEST_CASE("A loader that is not built yet says what is") {
  comm::World world = comm::World::single();
  const std::string said = message_of([&] { AutoModelForSequenceClassification::from_pretrained(kLlama, world); });
  CHECK(has(said, kLlama));
  CHECK(has(said,
            "AutoModelForSequenceClassification is not supported yet; supported is AutoModelForCausalLM, for gpt2, "
            "llama, mistral, mixtral, qwen2, qwen3, qwen3_moe"));
  CHECK(
      has(message_of([&] { AutoModelForImageTextToText::from_config(kLlama, world); }), "AutoModelForImageTextToText"));
  CHECK(has(message_of([&] { AutoModelForTokenClassification::from_config(small_config(), world); }),
            "AutoModelForTokenClassification"));
  // What is wrong with the arguments comes first.
  const auto setup = DistributedSetup::build({.world_size = 1});
  const comm::DeviceMesh mesh({{"dp", 1}});
  CHECK(has(message_of([&] {
              AutoModelForTokenClassification::from_pretrained(kLlama, world,
                                                               {.distributed_setup = &setup, .device_mesh = &mesh});
            }),
            "not both"));
}

TEST_CASE("A model that is not there or not known is refused before memory is taken") {
  comm::World world = comm::World::single();
  CHECK(has(message_of([&] { AutoModelForCausalLM::from_pretrained("no/such/folder/here", world); }),
            "there is no such model folder"));
  config::Node unknown = small_config();
  unknown.set("model_type", config::Node::string("lama"));
  unknown.set("hiden_size", config::Node::integer(3));
  CHECK(has(message_of([&] { AutoModelForCausalLM::from_config(unknown, world); }), "did you mean 'llama'?"));
}

TEST_CASE("Fields of the config may be changed, and weights that no longer fit are named") {
  comm::World world = comm::World::single();
  LoadOptions options;
  options.config_changes.set("num_hidden_layers", config::Node::integer(1));
  CHECK(AutoModelForCausalLM::from_config(kLlamaBias, world, options)->info().layers == 1);
  options.config_changes.set("num_hidden_layers", config::Node::integer(3));
  CHECK(has(message_of([&] { AutoModelForCausalLM::from_pretrained(kLlamaBias, world, options); }), "model.layers.2."));
}

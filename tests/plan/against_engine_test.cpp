// Random small jobs, planned, then really trained on ranks that are threads: what the plan says about memory and
// traffic is what the allocators and the communicators count.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "core/rng.h"
#include "distributed/distributed_setup.h"
#include "models/capabilities.h"
#include "models/registry.h"
#include "ops/device_memory.h"
#include "plan/rank_plan.h"
#include "support/guarded_device.h"
#include "support/run_mesh.h"

using namespace automodel;

namespace {

// Draws from a fixed sequence.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed, "plans") {}
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_.below(static_cast<uint64_t>(high - low + 1), next_++));
  }
  bool coin() { return between(0, 1) == 1; }

 private:
  Random random_;
  uint64_t next_ = 0;
};

struct Case {
  std::string config;
  int ranks = 1;
  // With a mesh of more than data-parallel ranks; request.mesh points to it.
  std::shared_ptr<const distributed::MeshContext> mesh;
  plan::RankRequest request;
  models::TensorCuts cuts;

  std::string name() const {
    std::string batches = request.host_batches ? " | on a device" : "";
    const auto& o = request.options;
    return fmt::format(
               "{} | {} ranks, {} x {}, keep {}, param {}, reduce {}, {} x {}x{}{}, ac {}, reshard {}, prefetch {} {}, "
               "defer "
               "{}",
               config, ranks, o.unit.shard ? "fsdp2" : "ddp", o.unit.replicas, o.unit.keep_gathered,
               automodel::name_of(o.unit.param_dtype), automodel::name_of(o.unit.reduce_dtype), request.accumulation,
               request.microbatch.rows, request.microbatch.cols, request.microbatch.packed ? " packed" : "",
               o.activation_checkpointing ? static_cast<int>(o.recall) + 1 : 0,
               o.reshard_after_forward ? static_cast<int>(*o.reshard_after_forward) : -1, o.prefetch,
               o.prefetch_backward, o.defer_reduce) +
           (mesh ? fmt::format(" | tp {} cp {} pp {} {} sp {}{}", mesh->tp_size(), mesh->cp_size(), mesh->pp_size(),
                               o.pipeline ? o.pipeline->schedule.name : "", request.sharing.sequence_parallel,
                               request.sharing.async_tensor_parallel ? " async" : "") +
                       (cuts.wholes ? fmt::format(" cut: {}", fmt::join(*cuts.wholes, " ")) : "")
                 : "") +
           batches;
  }
};

std::string random_config(Dice& dice) {
  static const std::vector<std::string> kFamilies{"llama", "mistral", "qwen2", "qwen3", "gpt2", "mixtral"};
  const std::string family = kFamilies[static_cast<size_t>(dice.between(0, 5))];
  int64_t layers = dice.between(1, 4), vocab = dice.between(40, 300);
  if (family == "gpt2") {
    int64_t heads = dice.between(1, 3);
    return fmt::format(
        R"({{"model_type": "gpt2", "vocab_size": {}, "n_embd": {}, "n_layer": {}, "n_head": {}, "n_positions": 64,
        "resid_pdrop": {}, "embd_pdrop": {}, "attn_pdrop": {}, "tie_word_embeddings": {}}})",
        vocab, heads * 2 * dice.between(3, 8), layers, heads, 0.1 * dice.between(0, 1), 0.1 * dice.between(0, 1),
        0.1 * dice.between(0, 1), dice.coin());
  }
  int64_t kv = dice.between(1, 2), heads = kv * dice.between(1, 3), width = 2 * dice.between(3, 8);
  std::string more;
  if (dice.coin()) more += R"(, "attention_dropout": 0.1)";
  if (family == "mistral" && dice.coin()) more += R"(, "sliding_window": 8)";
  if (family == "qwen3" && dice.coin()) more += R"(, "head_dim": 16)";
  if (family == "llama" && dice.coin()) more += R"(, "attention_bias": true, "mlp_bias": true)";
  if (family == "mixtral") {
    int64_t experts = dice.between(1, 8);
    more += fmt::format(R"(, "num_local_experts": {}, "num_experts_per_tok": {}, "output_router_logits": {})", experts,
                        dice.between(1, std::min<int64_t>(experts, 3)), dice.coin());
  }
  return fmt::format(
      R"({{"model_type": "{}", "vocab_size": {}, "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {},
      "num_attention_heads": {}, "num_key_value_heads": {}, "max_position_embeddings": 64, "tie_word_embeddings": {}{}}})",
      family, vocab, heads * width, dice.between(16, 90), layers, heads, kv, dice.coin(), more);
}

Case random_case(uint64_t seed) {
  Dice dice(seed);
  Case c;
  c.config = random_config(dice);
  c.ranks = static_cast<int>(dice.between(1, 8));
  engine::EngineOptions& o = c.request.options;
  o.unit.shard = dice.between(0, 2) > 0;
  o.unit.param_dtype = dice.coin() ? DType::kBF16 : DType::kF32;
  o.unit.reduce_dtype = dice.between(0, 3) == 0 ? DType::kBF16 : DType::kF32;
  if (o.unit.shard && c.ranks % 2 == 0 && dice.between(0, 2) == 0) o.unit.replicas = c.ranks == 8 ? 4 : 2;
  o.unit.keep_gathered = dice.between(0, 3) == 0;
  if (dice.coin()) o.reshard_after_forward = dice.coin();
  o.defer_reduce = dice.between(0, 3) > 0;
  o.overlap_reduce = dice.between(0, 3) > 0;
  o.prefetch = static_cast<int>(dice.between(0, 2));
  o.prefetch_backward = static_cast<int>(dice.between(0, 3));
  o.activation_checkpointing = dice.between(0, 1) == 0;
  o.recall = static_cast<autograd::Recall>(dice.between(0, 2));
  o.adam.eps = 1e-8;  // where a gradient is zero
  o.max_grad_norm = dice.coin() ? 1.0 : 0.0;
  if (dice.coin()) o.dropout_seed = 7;
  c.request.accumulation = dice.between(1, 5);
  c.request.microbatch = {dice.between(1, 4), dice.between(1, 40), dice.between(0, 2) == 0};
  c.request.world_size = c.ranks;
  return c;
}

// Cuts some of the attentions, MLPs and tables.
models::TensorCuts random_cuts(models::CausalLM& model, Dice& dice) {
  models::TensorCuts cuts{std::set<std::string>{}};
  const bool tables = dice.coin();
  for (nn::Param* p : model.root_params())
    if (p->split.dim >= 0 && tables) cuts.wholes->insert(p->name.substr(0, p->name.rfind('.')));
  if (tables) cuts.wholes->insert("lm_head");
  for (int i = 0; i < model.layers(); ++i) {
    std::set<std::string> of_layer;
    for (nn::Param* p : model.layer_params(i)) {
      const std::string module = p->name.substr(0, p->name.rfind('.'));
      if (p->split.dim >= 0) of_layer.insert(module.substr(0, module.rfind('.')));
    }
    for (const std::string& whole : of_layer)
      if (dice.coin()) cuts.wholes->insert(whole);
  }
  return cuts;
}

// Some jobs have tensor-parallel ranks, pipeline ranks, or both.
void add_mesh(Case& c, Dice& dice) {
  auto model = models::build(config::parse_json(c.config, "config.json"));
  distributed::ParallelismSizes sizes;
  sizes.tp_size = dice.between(1, 2) * dice.between(1, 2);
  sizes.pp_size = dice.between(1, 2);
  sizes.cp_size = dice.between(1, 2);
  c.request.sharing.sequence_parallel = dice.coin() && sizes.tp_size > 1;
  c.request.sharing.async_tensor_parallel = dice.coin();
  c.request.sharing.context_method = static_cast<ops::ContextMethod>(dice.between(0, 1));
  auto schedule = std::string(dice.coin() ? "1F1B" : "InterleavedZeroBubble");
  int stages = parallel::is_single_stage(schedule) ? 2 : 4;
  if (!models::violations(model->info(), sizes).empty() || (sizes.pp_size > 1 && model->layers() < stages)) return;
  if (dice.between(0, 2) == 0) c.cuts = random_cuts(*model, dice);
  int64_t rest = sizes.tp_size * sizes.pp_size * sizes.cp_size;
  if (rest == 1) return;
  c.request.options.unit.replicas = 1;
  c.ranks = static_cast<int>(rest * dice.between(1, std::max<int64_t>(1, 8 / rest)));
  c.request.world_size = c.ranks;
  distributed::SetupRequest request{.strategy = "fsdp2", .parallelism_sizes = sizes};
  request.world_size = c.ranks;
  if (sizes.pp_size > 1) request.pipeline_config = distributed::PipelineConfig{};
  c.mesh = std::make_shared<distributed::MeshContext>(distributed::DistributedSetup::build(request).mesh_context);
  c.request.mesh = c.mesh.get();
  if (sizes.pp_size > 1)
    c.request.options.pipeline =
        engine::Pipeline{parallel::make_schedule({schedule, 2, stages, static_cast<int>(dice.between(1, 2) * 2)}),
                         parallel::split_layers(model->layers(), stages)};
}

// What one rank really did, step by step.
struct Seen {
  std::vector<MemoryStats> memory;
  std::vector<plan::Traffic> traffic;
};

constexpr int kSteps = 3;

// Any tokens will do, and two documents to a packed row.
nn::Tokens real_tokens(const plan::BatchShape& shape, Allocator& allocator) {
  nn::Tokens tokens = plan::tokens_of(shape, allocator);
  for (int64_t r = 0; r < shape.rows; ++r) tokens.samples.data<int64_t>()[r] = r;
  for (int64_t t = 0; t < shape.rows * shape.cols; ++t) {
    auto i = static_cast<int32_t>(t % shape.cols);
    auto second = static_cast<int32_t>(shape.cols / 2);
    int32_t start = shape.packed && i >= second ? second : 0;
    tokens.ids.data<int32_t>()[t] = (7 * static_cast<int32_t>(t) + 3) % 40;
    tokens.labels.data<int32_t>()[t] = t % 5 == 0 ? -100 : (3 * static_cast<int32_t>(t) + 1) % 40;
    tokens.positions.data<int32_t>()[t] = i - start;
    if (shape.packed) tokens.document_start.data<int32_t>()[t] = start;
  }
  return tokens;
}

Seen train(const Case& c, comm::World& world) {
  Seen seen;
  plan::Traffic traffic;
  world.observe([&](const comm::CallRecord& call) { traffic.add(call); });
  bool device = c.request.host_batches;
  auto allocator = device ? test::make_guarded_allocator() : make_cpu_allocator();
  std::unique_ptr<comm::DeviceMemory> memory;
  std::unique_ptr<comm::Communicator> staged;
  if (device) {
    memory = ops::make_device_memory(*allocator);
    staged = comm::make_staged(world.global(), *memory);
  }
  auto model = models::build(config::parse_json(c.config, "config.json"), c.cuts);
  parallel::JobGroups groups(c.mesh ? *c.mesh : distributed::MeshContext(c.ranks), device ? *staged : world.global(),
                             c.request.sharing);
  engine::Engine engine(*model, groups.all(), *allocator, c.request.options);
  engine.initialise(1);
  for (int step = 0; step < kSteps; ++step) {
    traffic = {};
    allocator->reset_peaks();
    std::vector<nn::Tokens> batches;
    for (int64_t i = 0; i < c.request.accumulation; ++i)
      batches.push_back(real_tokens(c.request.microbatch, engine.token_memory()));
    engine.step({batches, 100, 1e-3, 0});
    seen.memory.push_back(allocator->stats());
    seen.traffic.push_back(traffic);
  }
  return seen;
}

// Largest and mean |planned / real - 1| of the peaks.
struct Errors {
  double largest = 0;
  double sum = 0;
  int64_t n = 0;
  void add(int64_t planned, int64_t real) {
    double error = static_cast<double>(planned) / static_cast<double>(real) - 1;
    CHECK(planned >= real);
    CHECK(error <= 0.02);
    largest = std::max(largest, error);
    sum += error;
    ++n;
  }
};

void compare(const plan::RankPlan& planned, const Seen& seen, Errors& errors) {
  for (int step = 0; step < kSteps; ++step) {
    CAPTURE(step);
    const MemoryStats& real = seen.memory[static_cast<size_t>(step)];
    const MemoryStats& said = step == 0 ? planned.first : planned.steady;
    errors.add(said.peak_total, real.peak_total);
    for (size_t i = 0; i < kMemoryClasses; ++i) {
      CAPTURE(name_of(static_cast<MemoryClass>(i)));
      CHECK(said.peak[i] == real.peak[i]);
    }
    CHECK(planned.traffic == seen.traffic[static_cast<size_t>(step)]);
  }
}

}  // namespace

TEST_CASE("what is planned for random jobs is what their ranks allocate and send") {
  constexpr uint64_t kCases = 160;
  ops::set_cuda_kernels(&test::guarded_kernels());
  Errors errors;
  for (uint64_t seed = 0; seed < kCases; ++seed) {
    Case c = random_case(seed);
    if (Dice dice(seed + 1000); seed % 2 == 1) add_mesh(c, dice);
    c.request.host_batches = seed % 3 == 2;
    CAPTURE(seed);
    CAPTURE(c.name());
    std::vector<Seen> seen(static_cast<size_t>(c.ranks));
    test::run_mesh(c.ranks, [&](comm::World& world) { seen[static_cast<size_t>(world.rank())] = train(c, world); });
    auto model = models::build(config::parse_json(c.config, "config.json"), c.cuts);
    c.request.model = model.get();
    for (c.request.rank = 0; c.request.rank < c.ranks; ++c.request.rank)
      compare(plan::plan_rank(c.request), seen[static_cast<size_t>(c.request.rank)], errors);
  }
  MESSAGE(errors.n << " peaks; planned over real: largest " << 100 * errors.largest << " %, mean "
                   << 100 * errors.sum / static_cast<double>(errors.n) << " %");
}

#include "train/bench.h"

#include <fmt/ranges.h>
#include <omp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "config/json_reader.h"
#include "core/error.h"
#include "core/rng.h"
#include "distributed/distributed_setup.h"
#include "engine/engine.h"
#include "models/registry.h"
#include "ops/cpu/peak.h"
#include "parallel/job_groups.h"
#include "train/bench_shapes.h"
#include "train/device.h"
#include "train/pipeline_stages.h"
#include "train/placement.h"
#include "train/rates.h"
#include "train/tokens.h"

namespace automodel::train {
namespace {

double operations_per_token(models::CausalLM& model, int64_t sequence) {
  const auto& info = model.info();
  int64_t weights = info.vocab_size * info.hidden_size;  // the head
  for (int i = 0; i < model.layers(); ++i)
    for (const nn::Param* p : model.layer_params(i))
      if (p->shape.rank() == 2) weights += p->shape.numel();
  return 6.0 * static_cast<double>(weights) + 12.0 * static_cast<double>(info.layers * info.hidden_size * sequence);
}

// Those of a data-parallel rank, `rank` of them.
nn::Tokens random_tokens(const BenchShape& shape, int64_t rows, int64_t vocab, int64_t rank, Allocator& allocator) {
  Random random(7, hash_name("bench " + std::to_string(rank)));
  data::Batch batch;
  batch.rows = rows;
  batch.cols = shape.sequence;
  for (int64_t i = 0; i < rows * shape.sequence; ++i) {
    batch.input_ids.push_back(
        static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(2 * i))));
    batch.labels.push_back(
        static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(2 * i + 1))));
    batch.position_ids.push_back(static_cast<int32_t>(i % shape.sequence));
  }
  for (int64_t row = 0; row < rows; ++row) batch.samples.push_back(rank * rows + row);
  return to_tokens(batch, allocator);
}

double peak_rss_mb() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// All ranks together; they measure at the same time, as they compute at the same time.
double peak_of_all(const RankDevice& device, DType dtype) {
  comm::Communicator& ranks = device.ranks();
  ranks.barrier();
  double mine =
      device.device().is_cpu() ? ops::cpu::peak_flops(dtype, 0.3) : 1e9 * matmul_gflops(dtype, device.allocator());
  return ranks.reduced(mine, comm::Reduce::kSum);
}

distributed::DistributedSetup setup_of(const BenchMesh& mesh, int ranks) {
  distributed::SetupRequest request;
  request.strategy = mesh.strategy;
  if (mesh.sequence_parallel) {
    AM_CHECK(distributed::find_strategy(mesh.strategy) == distributed::Strategy::kFsdp2 && mesh.tp > 1, Fault::kUsage,
             "bench: --sequence-parallel needs the strategy fsdp2 and --tp above 1, not {} and {}", mesh.strategy,
             mesh.tp);
    request.strategy = distributed::FSDP2Config{.sequence_parallel = true};
  }
  request.parallelism_sizes.tp_size = mesh.tp;
  request.parallelism_sizes.cp_size = mesh.cp;
  request.parallelism_sizes.pp_size = mesh.pp;
  request.world_size = ranks;
  return distributed::DistributedSetup::build(request);
}

// The layers of each stage, where the mesh names their numbers.
std::vector<parallel::LayerRange> listed_stages(const BenchMesh& mesh, int layers, size_t stages) {
  int total = std::reduce(mesh.stage_layers.begin(), mesh.stage_layers.end());
  AM_CHECK(mesh.stage_layers.size() == stages && total == layers, Fault::kUsage,
           "bench: --stage-layers has {} stages with {} layers; {} makes {} stages of the {} layers",
           mesh.stage_layers.size(), total, mesh.schedule, stages, layers);
  std::vector<parallel::LayerRange> out;
  for (int count : mesh.stage_layers) {
    int begin = out.empty() ? 0 : out.back().end;
    out.push_back({begin, begin + count});
  }
  return out;
}

engine::Pipeline pipeline_of(const BenchMesh& mesh, models::CausalLM& model, int64_t rows) {
  AM_CHECK(distributed::find_schedule(mesh.schedule), Fault::kUsage, "bench: unknown schedule '{}'; known are {}",
           mesh.schedule, fmt::join(distributed::schedule_names(), ", "));
  int64_t microbatches = mesh.microbatches.value_or(rows);
  AM_CHECK(rows % microbatches == 0, Fault::kUsage, "bench: {} rows cannot be cut into {} microbatches", rows,
           microbatches);
  distributed::PipelineConfig config;
  config.pp_schedule = mesh.schedule;
  config.pp_microbatch_size = rows / microbatches;
  engine::Pipeline pipeline = make_pipeline(config, model, static_cast<int>(mesh.pp), rows);
  if (!mesh.stage_layers.empty()) pipeline.stages = listed_stages(mesh, model.layers(), pipeline.stages.size());
  return pipeline;
}

// `rows`: of one data-parallel rank.
engine::EngineOptions options_of(const BenchShape& shape, const distributed::DistributedSetup& setup,
                                 models::CausalLM& model, int64_t rows) {
  engine::EngineOptions options;
  place_by(options, {.strategy = setup.strategy_config, .checkpointing = setup.activation_checkpointing});
  options.activation_checkpointing = shape.activation_checkpointing;
  options.unit.param_dtype = shape.dtype;
  options.unit.reduce_dtype = DType::kF32;
  if (setup.mesh_context.pp_enabled()) options.pipeline = pipeline_of(shape.mesh, model, rows);
  options.adam = {.decoupled = true, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  options.max_grad_norm = 0;
  return options;
}

nlohmann::json json_of(const BenchMesh& mesh, int ranks) {
  nlohmann::json out{{"strategy", mesh.strategy},
                     {"dp", ranks / (mesh.tp * mesh.cp * mesh.pp)},
                     {"tp", mesh.tp},
                     {"sequence_parallel", mesh.sequence_parallel},
                     {"cp", mesh.cp},
                     {"pp", mesh.pp}};
  if (mesh.pp > 1) out["schedule"] = mesh.schedule;
  if (!mesh.stage_layers.empty()) out["stage_layers"] = mesh.stage_layers;
  return out;
}

std::string text_of(const BenchMesh& mesh) {
  std::string out = mesh.strategy;
  auto add = [&](const char* name, int64_t size) {
    if (size > 1) out += fmt::format(", {} {}", name, size);
  };
  add(mesh.sequence_parallel ? "tp+sp" : "tp", mesh.tp), add("cp", mesh.cp), add("pp", mesh.pp);
  return mesh.pp > 1 ? out + " " + mesh.schedule : out;
}

}  // namespace

BenchResult bench(const BenchShape& shape, comm::World& world) {
  RankDevice device(shape.device, world);
  comm::Communicator& ranks = device.ranks();
  distributed::DistributedSetup setup = setup_of(shape.mesh, ranks.size());
  int64_t data_ranks = setup.mesh_context.data_ranks();
  AM_CHECK(shape.batch % data_ranks == 0, Fault::kUsage, "bench: {} rows cannot be shared by {} data-parallel ranks",
           shape.batch, data_ranks);
  int64_t rows = shape.batch / data_ranks;
  parallel::JobGroups groups(setup.mesh_context, ranks,
                             parallel::sharing_of(setup.strategy_config, ops::ContextMethod::kAllGather));
  auto model = models::build(config::parse_json(bench_config(shape.model), shape.model));
  engine::Engine engine(*model, groups.all(), device.allocator(), options_of(shape, setup, *model, rows));
  engine.initialise(1);
  // Ranks that share a batch get the same tokens.
  nn::Tokens tokens = random_tokens(shape, rows, model->info().vocab_size, setup.mesh_context.data_rank(ranks.rank()),
                                    engine.token_memory());
  engine::StepInput input{std::span(&tokens, 1), shape.batch * shape.sequence, 1e-4, 0.1};

  for (int i = 0; i < 2; ++i) engine.step(input);
  std::vector<double> times;
  double peak = peak_of_all(device, shape.dtype);
  for (int64_t i = 0; i < shape.steps; ++i) {
    ranks.barrier();
    auto start = std::chrono::steady_clock::now();
    engine.step(input);
    times.push_back(ranks.reduced(seconds_since(start), comm::Reduce::kMax));
  }
  peak = (peak + peak_of_all(device, shape.dtype)) / 2;

  std::ranges::nth_element(times, times.begin() + static_cast<int64_t>(times.size() / 2));
  BenchResult result;
  result.tokens_per_s = static_cast<double>(shape.batch * shape.sequence) / times[times.size() / 2];
  result.gflops = result.tokens_per_s * operations_per_token(*model, shape.sequence) / 1e9;
  result.share_of_peak = result.gflops * 1e9 / peak;
  result.peak_tensor_mb =
      ranks.reduced(static_cast<double>(device.allocator().stats().peak_total) / (1 << 20), comm::Reduce::kMax);
  result.peak_rss_mb = ranks.reduced(peak_rss_mb(), comm::Reduce::kMax);
  result.threads = omp_get_max_threads();
  result.device = name_of(device.device());
  return result;
}

std::string to_json(const BenchShape& shape, const BenchResult& r, int ranks) {
  return nlohmann::json{{"model", shape.model},
                        {"dtype", shape.dtype == DType::kBF16 ? "bf16" : "fp32"},
                        {"batch", shape.batch},
                        {"seq", shape.sequence},
                        {"ranks", ranks},
                        {"threads", r.threads},
                        {"device", r.device},
                        {"mesh", json_of(shape.mesh, ranks)},
                        {"tokens_per_s", r.tokens_per_s},
                        {"gflops", r.gflops},
                        {"share_of_peak", r.share_of_peak},
                        {"activation_checkpointing", shape.activation_checkpointing},
                        {"peak_tensor_mb", r.peak_tensor_mb},
                        {"peak_rss_mb", r.peak_rss_mb}}
      .dump();
}

std::string to_text(const BenchShape& shape, const BenchResult& r, int ranks) {
  return fmt::format(
      "{} {} {} x {}: {} ranks x {} threads on {} ({}), {:.1f} tokens/s, {:.1f} GFLOP/s ({:.1f} % of peak), {:.0f} MiB",
      shape.model, name_of(shape.dtype), shape.batch, shape.sequence, ranks, r.threads, r.device, text_of(shape.mesh),
      r.tokens_per_s, r.gflops, 100 * r.share_of_peak, r.peak_rss_mb);
}

}  // namespace automodel::train

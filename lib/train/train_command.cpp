// `automodel train`: make everything ready, start ranks where they are needed, train, and show what came of it.
#include <algorithm>
#include <csignal>
#include <cstdio>

#include "comm/signals.h"
#include "core/error.h"
#include "core/log.h"
#include "distributed/mesh_picture.h"
#include "launch/launch.h"
#include "train/commands.h"
#include "train/device.h"
#include "train/generator.h"
#include "train/plan_job.h"
#include "train/ranks.h"
#include "train/trainer.h"

namespace automodel::train {
namespace {

std::string millions(int64_t n) {
  return n < 10'000'000 ? fmt::format("{:.2f} M", static_cast<double>(n) / 1e6)
                        : fmt::format("{:.0f} M", static_cast<double>(n) / 1e6);
}

// What a reader of the log needs to know about the run before its first step, and whether it fits its devices.
void introduce(const Job& job, const comm::World& world) {
  if (!world.is_main()) return;
  const RecipeConfig& config = job.config();
  const auto& info = job.source.model->info();
  int64_t elements = nn::count_elements(job.source.model->params());
  log::info("automodel {} | recipe {}", AUTOMODEL_VERSION,
            job.recipe.node.origin().source ? job.recipe.node.origin().source->name : "");
  log::info("mesh: {} | strategy {} | {} ranks on this machine", distributed::mesh_line(job.setup->mesh_context),
            distributed::name_of(job.setup->strategy()), world.local_size());
  log::info(
      "model: {} | {} parameters | {} layers, hidden {}, {} heads ({} kv), vocab {} | compute {}, reduce {}, master "
      "fp32",
      info.model_type, millions(elements), info.layers, info.hidden_size, info.heads, info.kv_heads, info.vocab_size,
      name_of(job.precision.param), name_of(job.precision.reduce));
  JobPlan plan = plan_job(job);
  log::info("memory: {}", summary(job, plan));
  if (auto free = free_device_bytes(config.device, world)) check_fits(plan, *free);
  log::info("data: {}", job.dataset->summary());
  const StepScheduler& scheduler = *job.scheduler;
  log::info("steps: {} | global batch {} = {} x {} microbatches x {} ranks | {} steps an epoch",
            scheduler.total_steps(), config.step_scheduler.global_batch_size, config.step_scheduler.local_batch_size,
            scheduler.accumulation(), job.setup->mesh_context.data_ranks(), scheduler.steps_per_epoch().value_or(0));
  for (const config::Problem& note : job.recipe.notes) log::info("{}: {}", note.key, note.message);
  for (const std::string& warning : job.warnings) log::warning("{}", warning);
}

// The recipe's `sample`: the trained model continues a text. Every rank computes, the main one shows.
void show_sample(const Job& job, Trainer& trainer, const comm::World& world) {
  const auto& sample = job.config().sample;
  if (!sample || job.tokenizer == nullptr) return;
  if (job.setup->mesh_context.pp_size() * job.setup->mesh_context.cp_size() > 1) {
    if (world.is_main())
      log::info("no sample: text is generated without pipeline and context parallelism; use automodel generate {}",
                job.config().checkpoint.checkpoint_dir);
    return;
  }
  SamplingOptions options;
  options.max_new_tokens = sample->max_new_tokens;
  options.temperature = sample->temperature;
  options.top_k = sample->top_k;
  options.top_p = sample->top_p;
  options.seed = static_cast<uint64_t>(job.config().base_seed());
  options.context = job.source.model->info().max_positions;
  std::vector<int32_t> prompt = encode_prompt(*job.tokenizer, sample->prompt);
  if (prompt.empty()) prompt.push_back(job.tokenizer->settings().bos_id.value_or(0));
  data::StreamDecoder decoder(*job.tokenizer, true);
  auto show = [&](const std::string& text) {
    if (!world.is_main()) return;
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  };
  show("\n--- sample ---\n" + sample->prompt);
  // The prompt is context for the decoder; only what follows is printed from it.
  for (int32_t id : prompt) decoder.push(id);
  generate(trainer.engine(), prompt, options, [&](int32_t id) { show(decoder.push(id)); });
  show(decoder.finish() + "\n--------------\n");
}

std::vector<int> stop_signals(const RecipeConfig& config) {
  // SIGUSR1 is how the launcher passes on that the user wants to stop.
  std::vector<int> signals{SIGUSR1, SIGINT};
  for (int signal : preemption_signals(config.step_scheduler))
    if (std::ranges::find(signals, signal) == signals.end()) signals.push_back(signal);
  return signals;
}

int train_as_rank(Job& job, comm::World& world) {
  world.set_places([mesh = job.setup->mesh_context](int rank) { return mesh.describe(rank); });
  introduce(job, world);
  comm::Signals signals(stop_signals(job.config()));
  Trainer trainer(job, world);
  int stopped = trainer.run([&] { return signals.received(); });
  if (stopped == 0) {
    show_sample(job, trainer, world);
    return 0;
  }
  if (world.is_main()) log::info("stopped by signal {} after a checkpoint", stopped);
  // Under a launcher the launcher says which signal ended the job.
  return world.size() == 1 && (stopped == SIGINT || stopped == SIGTERM) ? 128 + stopped : 0;
}

int start_ranks(const TrainOptions& options, const launch::Command& command) {
  // Everything is checked here once, so that no rank starts for a job that cannot run.
  if (command.ranks > 0) {
    Job job = prepare(options.recipe, command.ranks, true);
    if (options.dry_run) log::info("{}", summary(job, plan_job(job)));
  }
  if (options.dry_run) {
    fmt::print("{}\n", launch::shell_text(command));
    return 0;
  }
  for (const std::string& notice : command.notices) log::info("{}", notice);
  return launch::launch(command);
}

}  // namespace

int run_train(const TrainOptions& options) {
  LoadedRecipe recipe = load_recipe(options.recipe);
  RanksWanted wanted;
  if (options.nproc_per_node)
    wanted.per_node = *options.nproc_per_node;
  else if (options.hosts.empty() && options.hostfile.empty())
    wanted.per_node = recipe.config.launch.nproc_per_node;
  wanted.hosts = options.hosts;
  wanted.hostfile = options.hostfile;
  wanted.command_line = options.command_line;
  std::erase(wanted.command_line, "--dry-run");
  if (options.hosts.empty() && options.hostfile.empty()) check_device(recipe.config.device);
  if (auto command = command_for(wanted)) return start_ranks(options, *command);

  Job job = prepare(options.recipe, ranks_here(), true);
  if (options.dry_run) {
    log::info("{}", summary(job, plan_job(job)));
    fmt::print("one rank: this process trains by itself\n");
    return 0;
  }
  return run_as_rank(job.config().dist_env.timeout_minutes,
                     [&](comm::World& world) { return train_as_rank(job, world); });
}

}  // namespace automodel::train

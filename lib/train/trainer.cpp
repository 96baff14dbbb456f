#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "checkpoint/directory.h"
#include "checkpoint/save.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "train/evaluation.h"
#include "train/flops.h"
#include "train/step_talk.h"
#include "train/tokens.h"
#include "train/trainer_state.h"
#include "train/weights.h"

namespace automodel::train {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string jsonl_name(const std::string& set) {
  return set == "default" ? "validation.jsonl" : "validation_" + set + ".jsonl";
}

// Where metrics go; also without checkpoints.
JsonlFile open_log(const Job& job, const comm::World& world, const std::string& name) {
  if (!world.is_main()) return {};
  fs::path folder = job.config().checkpoint.checkpoint_dir;
  std::error_code error;
  fs::create_directories(folder, error);
  AM_CHECK(!error, Fault::kIo, "checkpoint.checkpoint_dir: {}: cannot make the folder: {}", folder.string(),
           error.message());
  return JsonlFile(folder / name);
}

}  // namespace

checkpoint::Ranks checkpoint_ranks(comm::Communicator& ranks) {
  checkpoint::Ranks out;
  out.rank = ranks.rank();
  out.size = ranks.size();
  out.sum = [&ranks](uint64_t n) {
    return static_cast<uint64_t>(ranks.reduced(static_cast<int64_t>(n), comm::Reduce::kSum));
  };
  out.first_text = [&ranks](const std::string& text) {
    int32_t speaker = ranks.reduced(text.empty() ? ranks.size() : ranks.rank(), comm::Reduce::kMin);
    if (speaker == ranks.size()) return std::string();
    auto length =
        ranks.reduced(ranks.rank() == speaker ? static_cast<int64_t>(text.size()) : int64_t{0}, comm::Reduce::kMax);
    std::string said = ranks.rank() == speaker ? text : std::string(static_cast<size_t>(length), ' ');
    ranks.broadcast({said.data(), length, DType::kU8}, speaker);
    return said;
  };
  return out;
}

// The reference's name of the variable is heeded too.
static engine::EngineOptions traced(engine::EngineOptions options, const comm::World& world) {
  auto asked = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && std::string_view(value) == "1";
  };
  options.trace_checkpointing = world.is_main() && (asked("AUTOMODEL_AC_TRACE") || asked("NEMO_SELECTIVE_AC_TRACE"));
  return options;
}

Trainer::Trainer(Job& job, comm::World& world)
    : job_(job),
      world_(world),
      device_(job.config().device, world, job.config().dist_env.device_transport),
      groups_(job.setup->mesh_context, device_.ranks(), sharing_options(job)),
      engine_(*job.source.model, groups_.all(), device_.allocator(), traced(engine_options(job), world)),
      loader_(job.dataset, loader_options(job, job.config().dataloader, groups_.batch().rank(), true)) {
  device_.check_all_alike();
  if (job.config().mfu.peak_tflops) peak_flops_ = *job.config().mfu.peak_tflops * 1e12;
  at_ = {job.config().step_scheduler.start_step, job.config().step_scheduler.start_epoch};
  if (job.config().checkpoint.enabled)
    checkpoint::together(checkpoint_ranks(groups_.world()), [&] {
      if (world.is_main()) checkpoint::prepare_root(job.config().checkpoint.checkpoint_dir);
    });
  training_log_ = open_log(job, world, "training.jsonl");
  fill_weights();
  if (world.is_main())
    for (const std::string& warning : engine_.warnings()) log::warning("{}", warning);
}

Trainer::~Trainer() = default;

void Trainer::fill_weights() {
  if (job_.resume.point) {
    resume(*job_.resume.point);
  } else {
    auto summary = train::fill_weights(engine_, job_.source, static_cast<uint64_t>(job_.config().base_seed()));
    if (summary && world_.is_main() && !summary->renamed.empty()) log::info("weights: {}", summary->renamed);
  }
}

void Trainer::resume(const checkpoint::ResumePoint& point) {
  checkpoint::HfModelDir dir(point.folder);
  load_weights(engine_, *job_.source.model, dir.tensors());
  load_optimizer(engine_, *job_.source.model, point.optimizer());
  std::vector<std::string> warnings;
  TrainerState state = read_trainer_state(point.trainer_state, (point.folder / checkpoint::kTrainerStateFile).string(),
                                          *job_.schedule, warnings);
  int64_t global = job_.config().step_scheduler.global_batch_size;
  if (state.global_batch_size != global)
    warnings.push_back(
        fmt::format("global_batch_size is {} and was {} when the checkpoint was saved: the data goes on where it "
                    "was, but steps and epochs count batches of the new size",
                    global, state.global_batch_size));
  at_ = state.at;
  engine_.set_updates(state.updates);
  loader_.seek(loader_place(state, loader_.samples_per_batch(), warnings));
  if (!world_.is_main()) return;
  log::info("resuming from {} at step {}", point.folder.string(), at_.step);
  for (const std::string& warning : warnings) log::warning("{}", warning);
}

double Trainer::utilisation(const std::vector<data::Batch>& batches, double seconds) {
  double flops = 0;
  for (const data::Batch& b : batches)
    if (b.sample_count > 0) flops += training_flops(job_.source.model->info(), b.rows, b.cols);
  return 100 * sum_flops(flops, groups_.batch()) / (seconds * peak_flops_ * world_.size());
}

TrainingRecord Trainer::step() {
  double started = now();
  std::vector<data::Batch> batches;
  std::vector<nn::Tokens> tokens;
  for (int64_t i = 0; i < job_.scheduler->microbatches(at_.step); ++i) {
    batches.push_back(loader_.next());
    tokens.push_back(to_tokens(batches.back(), engine_.token_memory()));
  }
  StepCounts mine;
  for (const data::Batch& batch : batches) {
    mine.labels += batch.label_count;
    mine.tokens += batch.token_count;
  }
  StepCounts counts = sum_counts(mine, groups_.batch());
  auto result =
      engine_.step({tokens, counts.labels, job_.schedule->lr(at_.step), job_.schedule->weight_decay(at_.step)});

  TrainingRecord record;
  double seconds = now() - started;
  record.step = at_.step;
  record.epoch = at_.epoch;
  record.loss = result.loss;
  record.grad_norm = result.grad_norm;
  record.lr = job_.schedule->lr(at_.step + 1);
  record.mem_gib = static_cast<double>(device_.allocator().stats().peak_total) / (1 << 30);
  record.tps = static_cast<double>(counts.tokens) / seconds;
  record.tps_per_gpu = record.tps / world_.size();
  if (peak_flops_ > 0) record.mfu = utilisation(batches, seconds);
  record.num_tokens_per_step = counts.tokens;
  record.num_label_tokens = counts.labels;
  device_.allocator().reset_peaks();
  return record;
}

void Trainer::print(const std::string& line) {
  if (!world_.is_main()) return;
  if (bar_) bar_->clear();
  log::info("{}", line);
}

int Trainer::run(const std::function<int()>& signal) {
  const StepScheduler& scheduler = *job_.scheduler;
  if (scheduler.finished(at_)) {
    print(fmt::format("nothing to do: step {} of {} is reached; raise step_scheduler.max_steps or num_epochs to go on",
                      at_.step, scheduler.total_steps()));
    return 0;
  }
  bar_ = std::make_unique<ProgressBar>(at_.step, scheduler.total_steps(), world_.is_main());
  int received = 0;
  while (!scheduler.finished(at_) && received == 0) {
    TrainingRecord record = step();
    received = any_signal(signal ? signal() : 0, groups_.world());
    auto decision = scheduler.decide(at_.step, at_.epoch, received != 0);
    training_log_.append(to_json(record));
    print(to_text(record));
    if (world_.is_main()) bar_->update(at_.step + 1, record);

    std::vector<std::pair<std::string, double>> val_losses;
    if (decision.validate) val_losses = validate_all(at_.step, at_.epoch);
    if (decision.checkpoint && job_.config().checkpoint.enabled)
      save(at_.step, at_.epoch, record.loss, val_losses, decision.last_step);
    at_ = scheduler.state_after(at_.step, at_.epoch);
  }
  bar_.reset();
  return received;
}

std::vector<std::pair<std::string, double>> Trainer::validate_all(int64_t step, int64_t epoch) {
  std::vector<std::pair<std::string, double>> losses;
  for (const auto& [name, dataset] : job_.validation) {
    auto [loss, labels] = evaluate(engine_, job_, groups_.batch(), dataset);
    ValidationRecord record{step,   epoch,
                            loss,   job_.schedule->lr(step + 1),
                            labels, static_cast<double>(device_.allocator().stats().peak_total) / (1 << 30)};
    open_log(job_, world_, jsonl_name(name)).append(to_json(record));
    print(to_text(record, name));
    losses.emplace_back(name, loss);
  }
  return losses;
}

void Trainer::save(int64_t step, int64_t epoch, double train_loss,
                   const std::vector<std::pair<std::string, double>>& val_losses, bool last) {
  const CheckpointConfig& config = job_.config().checkpoint;
  checkpoint::WriterOptions options;
  options.root = config.checkpoint_dir;
  options.max_recent_checkpoints = config.max_recent_checkpoints;
  options.best_metric_key = config.best_metric_key;

  checkpoint::SaveRequest request;
  request.epoch = epoch;
  request.step = step;
  request.model = model_group(engine_, *job_.source.model, job_.source.storage);
  request.optimizer = optimizer_group(engine_, *job_.source.model, job_.source.storage);
  request.hf_files = job_.source.companions;
  if (job_.tokenizer != nullptr)
    for (const data::TokenizerFile& file : job_.tokenizer->files()) request.hf_files[file.name] = file.content;
  request.hf_files["config.json"] = job_.source.config_json;
  request.recipe = job_.recipe.yaml();
  request.trainer_state = to_json(TrainerState{job_.scheduler->state_after(step, epoch), engine_.updates(),
                                               loader_.state(), loader_.samples_per_batch(), job_.config().base_seed(),
                                               job_.config().step_scheduler.global_batch_size},
                                  *job_.schedule);
  request.train_loss = train_loss;
  request.val_losses = val_losses;
  request.signature = job_.signature;
  request.consolidated =
      config.save_consolidated == Consolidate::kEvery || (config.save_consolidated == Consolidate::kFinal && last);
  double started = now();
  fs::path folder = checkpoint::CheckpointWriter(options, checkpoint_ranks(groups_.world())).save(request);
  print(fmt::format("saved {} in {:.1f} s", folder.string(), now() - started));
}

}  // namespace automodel::train

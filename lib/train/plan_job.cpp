#include "train/plan_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "train/device.h"
#include "train/flops.h"
#include "train/step_talk.h"

namespace automodel::train {
namespace {

void warn_of_length(const Job& job, JobPlan& plan) {
  const models::ModelInfo& info = job.source.model->info();
  int64_t length = plan.batch.microbatch.cols;
  if (length > info.max_positions && info.max_positions > 0)
    plan.warnings.push_back(fmt::format(
        "rows of {} tokens are longer than the {} positions that the model was made for", length, info.max_positions));
}

// Neighbours that come out the same are one kind.
void add_kind(std::vector<KindPlan>& kinds, KindPlan next) {
  auto alike = [](const plan::RankPlan& a, const plan::RankPlan& b) {
    return a.first.peak == b.first.peak && a.steady.peak == b.steady.peak && a.peak_total() == b.peak_total() &&
           a.steady.current == b.steady.current && a.traffic == b.traffic;
  };
  if (kinds.empty() || !alike(kinds.back().plan, next.plan) || !plan::join(kinds.back().ranks, next.ranks))
    kinds.push_back(std::move(next));
}

}  // namespace

const KindPlan& JobPlan::largest() const {
  return *std::ranges::max_element(kinds, {}, [](const KindPlan& k) { return k.plan.peak_total(); });
}

JobPlan plan_job(const Job& job) {
  JobPlan plan;
  models::CausalLM& model = *job.source.model;
  plan.parameters = nn::count_elements(model.params());
  plan.batch = plan_batch(job.config(), job.setup->mesh_context.data_ranks());
  const plan::BatchShape& shape = plan.batch.microbatch;
  plan.step_flops = training_flops(model.info(), shape.rows, shape.cols) *
                    static_cast<double>(plan.batch.accumulation * plan.batch.dp_size);
  plan::RankRequest request;
  request.model = &model;
  request.options = engine_options(job);
  request.world_size = job.world_size;
  request.mesh = &job.setup->mesh_context;
  request.sharing = sharing_options(job);
  request.microbatch = shape;
  request.accumulation = plan.batch.accumulation;
  plan.device = {device_here(job.config().device), 0};
  request.host_batches = plan.device.is_cuda();
  request.evaluations = validation_batches(job.config());
  bool measures_utilisation = job.config().mfu.peak_tflops.has_value();
  request.before_step = [](const parallel::JobGroups& ranks) { sum_counts({}, ranks.batch()); };
  request.after_step = [measures_utilisation](const parallel::JobGroups& ranks) {
    if (measures_utilisation) sum_flops(0, ranks.batch());
    any_signal(0, ranks.world());
  };
  for (const plan::RankKind& kind : plan::kinds_of_ranks(job.setup->mesh_context, model)) {
    request.rank = kind.first;
    add_kind(plan.kinds, {kind, plan::plan_rank(request)});
  }
  for (const config::Problem& note : job.recipe.notes)
    plan.warnings.push_back(
        fmt::format("{}: {}{}{}", note.key, note.message, note.hint.empty() ? "" : "; ", note.hint));
  plan.warnings.insert(plan.warnings.end(), job.warnings.begin(), job.warnings.end());
  warn_of_length(job, plan);
  return plan;
}

void check_fits(const JobPlan& plan, int64_t free_bytes) {
  const plan::RankPlan& rank = plan.largest().plan;
  if (rank.peak_total() <= free_bytes) return;
  std::string classes;
  for (int i = 0; i < kMemoryClasses; ++i) {
    auto c = static_cast<MemoryClass>(i);
    classes += fmt::format("{}{} {}", i > 0 ? ", " : "", name_of(c), human_bytes(rank.peak(c)));
  }
  fail(Fault::kDevice,
       "{} needs {} of its device's memory and {} are free (peaks: {}); to make it fit, set "
       "distributed.activation_checkpointing: true, lower step_scheduler.local_batch_size or the length of the rows, "
       "or share the weights among more ranks (automodel plan shows what each does)",
       ranks_text(plan.largest().ranks), human_bytes(rank.peak_total()), human_bytes(free_bytes), classes);
}

std::string summary(const Job& job, const JobPlan& plan) {
  int64_t peak = plan.largest().plan.peak_total();
  return job.world_size == 1
             ? fmt::format("the rank will need {} of memory at most", human_bytes(peak))
             : fmt::format("{} of the {} ranks will need {} of memory at most",
                           plan.kinds.size() == 1 ? "each" : "the largest", job.world_size, human_bytes(peak));
}

std::string human_bytes(int64_t bytes) {
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string ranks_text(const plan::RankKind& kind) {
  if (kind.where().empty())
    return kind.count == 1 ? fmt::format("rank {}", kind.first)
                           : fmt::format("each of ranks {}-{}", kind.first, kind.first + kind.count - 1);
  return kind.count == 1 ? fmt::format("rank {} ({})", kind.first, kind.where())
                         : fmt::format("each of the {} ranks with {}", kind.count, kind.where());
}

}  // namespace automodel::train

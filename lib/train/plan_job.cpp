#include "train/plan_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

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
  request.axis = job.setup->mesh_context.loss_axis();
  request.microbatch = shape;
  request.accumulation = plan.batch.accumulation;
  request.evaluations = validation_batches(job.config());
  bool measures_utilisation = job.config().mfu.peak_tflops.has_value();
  request.before_step = [](comm::Communicator& ranks) { sum_counts({}, ranks); };
  request.after_step = [measures_utilisation](comm::Communicator& ranks) {
    if (measures_utilisation) sum_flops(0, ranks);
    any_signal(0, ranks);
  };
  for (const plan::RankKind& kind : plan::kinds_of_ranks(job.world_size)) {
    request.rank = kind.first;
    plan.kinds.push_back({kind, plan::plan_rank(request)});
  }
  for (const config::Problem& note : job.recipe.notes)
    plan.warnings.push_back(
        fmt::format("{}: {}{}{}", note.key, note.message, note.hint.empty() ? "" : "; ", note.hint));
  plan.warnings.insert(plan.warnings.end(), job.warnings.begin(), job.warnings.end());
  warn_of_length(job, plan);
  return plan;
}

std::string summary(const Job& job, const JobPlan& plan) {
  int64_t peak = plan.largest().plan.peak_total();
  return job.world_size == 1
             ? fmt::format("the rank will need {} of memory at most", human_bytes(peak))
             : fmt::format("each of the {} ranks will need {} of memory at most", job.world_size, human_bytes(peak));
}

std::string human_bytes(int64_t bytes) {
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string rank_range(const plan::RankKind& ranks) {
  return ranks.count == 1 ? fmt::format("{}", ranks.first)
                          : fmt::format("{}-{}", ranks.first, ranks.first + ranks.count - 1);
}

}  // namespace automodel::train

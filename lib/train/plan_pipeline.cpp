#include "train/plan_pipeline.h"

#include <fmt/core.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "parallel/schedule.h"
#include "parallel/timeline.h"

namespace automodel::train {
namespace {

constexpr int kColumns = 100;
constexpr int kMostRanks = 16;  // drawn

parallel::Schedule schedule_of(const distributed::PipelineConfig& config, int ranks) {
  if (config.pp_schedule_csv)
    return parallel::parse_schedule(read_file(*config.pp_schedule_csv), *config.pp_schedule_csv, ranks);
  std::string name = distributed::find_schedule(config.pp_schedule.value_or("")).value_or("");
  int stages = parallel::is_single_stage(name) ? ranks : 2 * ranks;
  if (config.module_fqns_per_model_part) stages = static_cast<int>(config.module_fqns_per_model_part->size());
  auto microbatches = static_cast<int>(config.pp_batch_size / config.pp_microbatch_size);
  return parallel::make_schedule({name, ranks, stages, microbatches});
}

}  // namespace

std::string pipeline_lines(const distributed::PipelineConfig& config, int ranks) {
  try {
    return pipeline_lines(schedule_of(config, ranks));
  } catch (const Error& error) {
    return fmt::format("no schedule: {}\n", error.what());
  }
}

std::string pipeline_lines(const parallel::Schedule& schedule) {
  int ranks = schedule.size();
  parallel::Timeline timeline = parallel::play(schedule);
  int alive = *std::ranges::max_element(timeline.peak_alive);
  std::string out = fmt::format("{}: {} stages, {} microbatch{}, bubble {:.1f} %, at most {} alive on a rank\n",
                                schedule.name, schedule.stages, schedule.microbatches,
                                schedule.microbatches == 1 ? "" : "es", 100 * timeline.bubble(), alive);
  std::string drawing = parallel::draw(timeline, kColumns);
  int shown = std::min(ranks, kMostRanks);
  for (int r = 0; r < shown; ++r) {
    size_t end = drawing.find('\n');
    out += fmt::format("  pp {:<3} {}\n", r, drawing.substr(0, end));
    drawing.erase(0, end + 1);
  }
  if (shown < ranks) out += fmt::format("  ... {} more ranks\n", ranks - shown);
  bool halves = out.find('#') != std::string::npos;
  out += fmt::format("  0-9 forward, a-z backward{} of a microbatch, . idle\n",
                     halves ? " for the input, # for the weights" : "");
  return out;
}

}  // namespace automodel::train

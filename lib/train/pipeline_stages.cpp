#include "train/pipeline_stages.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"

namespace automodel::train {
namespace {

using parallel::LayerRange;

constexpr const char* kKey = "distributed.pipeline.module_fqns_per_model_part";

bool holds(const std::string& module, const std::string& param) {
  return param == module || (param.starts_with(module) && param[module.size()] == '.');
}

// Whether the listed modules hold all of the weights, some of them, or none.
enum class Share { kNone, kSome, kAll };
Share share_of(const std::vector<std::string>& modules, const std::vector<nn::Param*>& params) {
  auto held = std::ranges::count_if(params, [&](const nn::Param* p) {
    return std::ranges::any_of(modules, [&](const std::string& m) { return holds(m, p->name); });
  });
  return held == 0 ? Share::kNone : held == std::ssize(params) ? Share::kAll : Share::kSome;
}

// The stage that has all of `params`; -1 when none has.
int stage_of(const std::vector<std::vector<std::string>>& parts, const std::vector<nn::Param*>& params) {
  int found = -1;
  for (size_t s = 0; s < parts.size(); ++s) {
    Share share = share_of(parts[s], params);
    if (share == Share::kNone) continue;
    AM_CHECK(share == Share::kAll, Fault::kConfig,
             "{}: part {} has {} without the rest of its block; list whole blocks, such as model.layers.0", kKey, s,
             params.front()->name);
    AM_CHECK(found == -1, Fault::kConfig, "{}: parts {} and {} both have {}; list it once", kKey, found, s,
             params.front()->name);
    found = static_cast<int>(s);
  }
  return found;
}

void check_ends(const std::vector<std::vector<std::string>>& parts, models::CausalLM& model) {
  int last = static_cast<int>(parts.size()) - 1;
  auto check = [&](nn::Param* param, int wanted, const char* where) {
    int stage = stage_of(parts, {param});
    AM_CHECK(stage == wanted, Fault::kConfig, "{}: {} is {}; list it in the {} part", kKey, param->name,
             stage == -1 ? std::string("in no part") : fmt::format("in part {}", stage), where);
  };
  std::vector<nn::Param*> embedding = model.embedding_params();
  for (nn::Param* p : embedding) check(p, 0, "first");
  for (nn::Param* p : model.head_params())
    if (std::ranges::find(embedding, p) == embedding.end()) check(p, last, "last");
}

std::vector<LayerRange> listed_stages(const std::vector<std::vector<std::string>>& parts, models::CausalLM& model) {
  check_ends(parts, model);
  std::vector<LayerRange> out(parts.size());
  int at = 0;
  for (int i = 0; i < model.layers(); ++i) {
    int stage = stage_of(parts, model.layer_params(i));
    AM_CHECK(stage != -1, Fault::kConfig, "{}: layer {} is in no part; list it in one", kKey, i);
    AM_CHECK(stage >= at, Fault::kConfig,
             "{}: layer {} is in part {} and the layer before it in part {}; list the layers in their order", kKey, i,
             stage, at);
    for (; at < stage; ++at) out[static_cast<size_t>(at)].end = out[static_cast<size_t>(at) + 1].begin = i;
  }
  for (; at + 1 < std::ssize(out); ++at)
    out[static_cast<size_t>(at)].end = out[static_cast<size_t>(at) + 1].begin = model.layers();
  out.back().end = model.layers();
  return out;
}

}  // namespace

engine::Pipeline make_pipeline(const distributed::PipelineConfig& config, models::CausalLM& model, int ranks,
                               int64_t rows) {
  std::string name = distributed::find_schedule(config.pp_schedule.value_or("")).value_or("");
  engine::Pipeline out;
  int stages = 0;
  if (config.pp_schedule_csv) {
    out.schedule = parallel::parse_schedule(read_file(*config.pp_schedule_csv), *config.pp_schedule_csv, ranks);
    stages = out.schedule.stages;
  } else if (config.module_fqns_per_model_part) {
    stages = static_cast<int>(config.module_fqns_per_model_part->size());
  } else {
    stages = parallel::stage_count({.layers = model.layers(),
                                    .ranks = ranks,
                                    .single_stage = parallel::is_single_stage(name),
                                    .layers_per_stage = config.layers_per_stage,
                                    .rounding = config.round_virtual_stages_to_pp_multiple});
  }
  AM_CHECK(rows % config.pp_microbatch_size == 0, Fault::kConfig,
           "distributed.pipeline.pp_microbatch_size is {}, which does not divide the {} samples of a batch; {}",
           config.pp_microbatch_size, rows, "use a divisor of it");
  int64_t microbatches = rows / config.pp_microbatch_size;
  if (!config.pp_schedule_csv)
    out.schedule = parallel::make_schedule({name, ranks, stages, static_cast<int>(microbatches)});
  AM_CHECK(out.schedule.microbatches == microbatches, Fault::kConfig,
           "{}: the schedule is for {} microbatches, a batch of {} samples has {} of pp_microbatch_size {}",
           config.pp_schedule_csv.value_or(""), out.schedule.microbatches, rows, microbatches,
           config.pp_microbatch_size);
  if (config.module_fqns_per_model_part) {
    AM_CHECK(std::ssize(*config.module_fqns_per_model_part) == stages, Fault::kConfig,
             "{}: {} parts for the {} stages of the schedule", kKey, config.module_fqns_per_model_part->size(), stages);
    out.stages = listed_stages(*config.module_fqns_per_model_part, model);
  } else {
    out.stages = parallel::split_layers(model.layers(), stages);
  }
  return out;
}

}  // namespace automodel::train

#include "distributed/pipeline_config.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace automodel::distributed {

void describe(config::Names<StageRounding>& n) {
  n("up", StageRounding::kUp, "to the next multiple of pp_size")("down", StageRounding::kDown, "to the one before");
}

void describe(config::Fields<PipelineConfig>& f) {
  using C = PipelineConfig;
  f.doc("Stages and their schedule.");
  f("pp_schedule", &C::pp_schedule,
    "1F1B, GPipe, Interleaved1F1B, LoopedBFS, InterleavedZeroBubble, ZBVZeroBubble or DualPipeV, in any case.");
  f("pp_schedule_csv", &C::pp_schedule_csv, "A file with a schedule: one row per rank, cells such as 0F1.");
  f("pp_microbatch_size", &C::pp_microbatch_size, "Rows of a microbatch.").at_least(1);
  f("pp_batch_size", &C::pp_batch_size, "Rows per run of the schedule; step_scheduler.local_batch_size wins.")
      .at_least(1);
  f("layers_per_stage", &C::layers_per_stage, "Decides the number of stages. Default: one or two a rank.").at_least(1);
  f("round_virtual_stages_to_pp_multiple", &C::round_virtual_stages_to_pp_multiple,
    "What to do when the stages are no multiple of pp_size.");
  f("module_fqns_per_model_part", &C::module_fqns_per_model_part, "The modules of each stage.");
  f("patch_inner_model", &C::patch_inner_model, "Replace the decoder's forward by one that knows stages.");
  f("patch_causal_lm_model", &C::patch_causal_lm_model, "The same for the model around it.");
  f("patch_stage_backward_maybe_with_nosync", &C::patch_stage_backward_maybe_with_nosync,
    "Reduce the gradients of experts once.");
  f("dtype", &C::dtype, "Element type of what crosses stages. Default: what mp_policy hands on.");
  f("scale_grads_in_schedule", &C::scale_grads_in_schedule, "Divide gradients by the number of microbatches.");
  f.key("loss_fn").no_effect("the loss is the recipe's loss_fn");
  f("pp_seq_len", &C::pp_seq_len, "Tokens of a row, when they are known.").at_least(1);
}

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> names{
      "1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"};
  return names;
}

std::optional<std::string> find_schedule(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
      {"interleaved_1f1b", "Interleaved1F1B"},
      {"looped_bfs", "LoopedBFS"},
      {"dfs", "Interleaved1F1B"},
      {"v_schedule", "ZBVZeroBubble"},
      {"zero_bubble", "InterleavedZeroBubble"}};
  const auto same = [&](std::string_view known) {
    return std::equal(name.begin(), name.end(), known.begin(), known.end(),
                      [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
  };
  for (const std::string& known : schedule_names()) {
    if (same(known)) return known;
  }
  for (const auto& [alias, known] : kAliases) {
    if (same(alias)) return std::string(known);
  }
  return std::nullopt;
}

}  // namespace automodel::distributed

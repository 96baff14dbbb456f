// How a model is cut into pipeline stages, and in which order they work on microbatches.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/schema.h"
#include "core/dtype.h"

namespace automodel::distributed {

enum class StageRounding { kUp, kDown };
void describe(config::Names<StageRounding>&);

struct PipelineConfig {
  std::optional<std::string> pp_schedule = "1f1b";  // see find_schedule()
  std::optional<std::string> pp_schedule_csv =
      std::nullopt;                // a schedule of one's own; then pp_schedule only places stages
  int64_t pp_microbatch_size = 1;  // rows
  int64_t pp_batch_size = 1;       // rows per run of the schedule; a recipe's local_batch_size wins
  std::optional<int64_t> layers_per_stage = std::nullopt;  // decides how many stages there are
  std::optional<StageRounding> round_virtual_stages_to_pp_multiple = std::nullopt;
  std::optional<std::vector<std::vector<std::string>>> module_fqns_per_model_part =
      std::nullopt;  // what each stage holds
  bool patch_inner_model = true;
  bool patch_causal_lm_model = true;
  bool patch_stage_backward_maybe_with_nosync = false;
  std::optional<DType> dtype = std::nullopt;  // of what crosses stages; in a recipe null means what the policy hands on
  bool scale_grads_in_schedule = false;
  std::optional<int64_t> pp_seq_len = std::nullopt;
};
void describe(config::Fields<PipelineConfig>&);

// The canonical name of a schedule, such as "Interleaved1F1B", whatever its case; the aliases of the reference's
// documentation (interleaved_1f1b, looped_bfs, dfs, v_schedule, zero_bubble) count too. Nothing: there is no such one.
std::optional<std::string> find_schedule(std::string_view name);
// All canonical names.
const std::vector<std::string>& schedule_names();

}  // namespace automodel::distributed

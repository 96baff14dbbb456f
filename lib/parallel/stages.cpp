#include "parallel/stages.h"

#include "core/error.h"

namespace automodel::parallel {
namespace {

int rounded(int stages, const StageRequest& r) {
  if (stages % r.ranks == 0) return stages;
  int below = stages / r.ranks * r.ranks;
  AM_CHECK(r.rounding.has_value(), Fault::kConfig,
           "layers_per_stage: {} layers in stages of {} make {} stages, which is no multiple of pp_size {}; set "
           "round_virtual_stages_to_pp_multiple to up ({} stages){}, or choose another layers_per_stage",
           r.layers, *r.layers_per_stage, stages, r.ranks, below + r.ranks,
           below > 0 ? fmt::format(" or down ({})", below) : "");
  return *r.rounding == distributed::StageRounding::kUp ? below + r.ranks : below;
}

}  // namespace

int stage_count(const StageRequest& r) {
  int stages = r.single_stage ? r.ranks : 2 * r.ranks;
  if (r.layers_per_stage.has_value()) {
    auto each = static_cast<int>(*r.layers_per_stage);
    stages = rounded((r.layers + each - 1) / each, r);
    int local = stages / r.ranks;
    AM_CHECK(
        !r.single_stage || local == 1, Fault::kConfig,
        "layers_per_stage: {} gives {} stages, {} a rank, and the schedule has one a rank; set it to {} or more, or "
        "choose a schedule of several stages a rank, such as Interleaved1F1B",
        each, stages, local, (r.layers + r.ranks - 1) / r.ranks);
    AM_CHECK(
        r.single_stage || local >= 2, Fault::kConfig,
        "layers_per_stage: {} gives {} stages, {} a rank, and the schedule needs two or more; set it to {} or less, "
        "or choose 1F1B",
        each, stages, local, std::max(1, r.layers / (2 * r.ranks)));
  }
  AM_CHECK(stages >= 1 && stages <= r.layers, Fault::kConfig,
           "{} pipeline stages for {} layers: each stage needs a layer; use at most {} ranks of pp", stages, r.layers,
           r.single_stage ? r.layers : std::max(1, r.layers / 2));
  return stages;
}

std::vector<LayerRange> split_layers(int layers, int stages) {
  std::vector<LayerRange> out;
  int begin = 0;
  for (int s = 0; s < stages; ++s) {
    int end = begin + layers / stages + (s < layers % stages ? 1 : 0);
    out.push_back({begin, end});
    begin = end;
  }
  return out;
}

}  // namespace automodel::parallel

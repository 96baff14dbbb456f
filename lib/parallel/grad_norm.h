// The global gradient norm: every weight once, summed in fp64 and rounded once.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "parallel/unit.h"

namespace automodel::parallel {

struct NormRanks {
  // Whether this rank counts its part of a weight: of the ranks that have the same part, one does.
  std::function<bool(const nn::Param&)> counts;
  // Ranks that have other weights, besides the shards of each unit and DataRanks::others(); null: none.
  comm::Communicator* tp = nullptr;
  comm::Communicator* pp = nullptr;
};

// 2-norm of the reduced gradients of all units of all ranks; the same number on every rank.
float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units, const NormRanks& ranks, Allocator& allocator);

// What gradients are multiplied by so that their norm is at most max_norm: min(1, max_norm / (norm + 1e-6)).
// max_norm <= 0: no clipping.
float clip_coefficient(float norm, double max_norm);

}  // namespace automodel::parallel

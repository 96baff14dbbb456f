// The global gradient norm: every weight once, summed in fp64 and rounded once.
#pragma once

#include <memory>
#include <vector>

#include "parallel/unit.h"

namespace automodel::parallel {

// 2-norm of the reduced gradients of all units; the same number on every rank.
float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units, const DataRanks& ranks, Allocator& allocator);

// What gradients are multiplied by so that their norm is at most max_norm: min(1, max_norm / (norm + 1e-6)).
// max_norm <= 0: no clipping.
float clip_coefficient(float norm, double max_norm);

}  // namespace automodel::parallel

// The global gradient norm: every weight once, summed in fp64 and rounded once.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "parallel/unit.h"

namespace automodel::parallel {

// 2-norm of the reduced gradients of all units of all ranks; the same number on every rank. `counts`: whether this rank
// counts its part of a weight (of the ranks that have the same part, one does). `others`: the ranks that have other
// weights, besides each unit's shards; null: none.
float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units,
                    const std::function<bool(const nn::Param&)>& counts, std::span<comm::Communicator* const> others,
                    Allocator& allocator);

// What gradients are multiplied by so that their norm is at most max_norm: min(1, max_norm / (norm + 1e-6)).
// max_norm <= 0: no clipping.
float clip_coefficient(float norm, double max_norm);

}  // namespace automodel::parallel

// Microbatches of the data room as the model takes them.
#pragma once

#include <span>

#include "data/batch.h"
#include "nn/tokens.h"

namespace automodel::train {

// Copies a batch into tensors of `allocator`.
nn::Tokens to_tokens(const data::Batch& batch, Allocator& allocator);

// A part of a text: one row at positions first, first + 1, ..., no labels.
nn::Tokens to_tokens(std::span<const int32_t> ids, Allocator& allocator, int32_t first = 0);

}  // namespace automodel::train

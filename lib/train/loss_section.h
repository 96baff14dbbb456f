// The `loss_fn:` section. All of the reference's token losses are one number, the sum of the cross entropies over the
// number of label tokens, and one implementation computes it without ever holding all logits; the target decides
// nothing.
#pragma once

#include <string>
#include <variant>

#include "config/schema.h"

namespace automodel::train {

struct MaskedCrossEntropy {};
struct FusedLinearCrossEntropy {};
struct TEParallelCrossEntropy {};
struct ChunkedCrossEntropy {};
struct KDLoss {};  // known by name, refused
void describe(config::Fields<MaskedCrossEntropy>&);
void describe(config::Fields<FusedLinearCrossEntropy>&);
void describe(config::Fields<TEParallelCrossEntropy>&);
void describe(config::Fields<ChunkedCrossEntropy>&);
void describe(config::Fields<KDLoss>&);

using LossConfig =
    std::variant<MaskedCrossEntropy, FusedLinearCrossEntropy, TEParallelCrossEntropy, ChunkedCrossEntropy, KDLoss>;

}  // namespace automodel::train

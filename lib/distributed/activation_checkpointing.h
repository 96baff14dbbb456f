// Activation checkpointing: which activations the forward keeps, and in which parts of a model.
#pragma once

#include <string>
#include <vector>

#include "config/schema.h"

namespace automodel::distributed {

// kFull keeps the inputs of each layer; kSelective keeps what is dear to make again too (autograd::Recall).
enum class ActivationCheckpointing { kNone, kFull, kSelective };
// The words of a recipe, in any case: false off none disabled no | true on full enabled yes | selective.
void describe(config::Names<ActivationCheckpointing>&);

// Parts of a model: "all", or some of "language", "vision", "audio", "multimodal" (= vision and audio).
using CheckpointScope = std::vector<std::string>;

struct ScopeResult {
  CheckpointScope scope;  // never empty
  std::string mistake;    // what is wrong with the words; empty: nothing
};
// What a list of words means: any case, '-' as '_', ',' and '+' separate, `default` and `auto` mean `all`, duplicates
// go, no word means `all`.
ScopeResult normalise_scope(const std::vector<std::string>& words);

// Whether a scope covers the decoder of a language model.
bool covers_language(const CheckpointScope& scope);

}  // namespace automodel::distributed

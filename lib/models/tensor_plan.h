// Which parts of a model tensor-parallel ranks cut: all that can be cut, or what a `tp_plan` selects.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "config/report.h"
#include "distributed/fsdp2_config.h"

namespace automodel::models {

class CausalLM;

// Products that belong together are cut together or not at all: an attention, an MLP, the embedding, the head. Each
// goes by the name that its modules have in common: "model.layers.0.self_attn", "transformer.h.0.mlp",
// "model.embed_tokens", "lm_head". What is not cut is whole on every rank, and each rank computes all of it.
struct TensorCuts {
  std::optional<std::set<std::string>> wholes;  // nothing: everything

  bool contains(const std::string& whole) const { return !wholes || wholes->contains(whole); }
};

// What `plan` cuts of `model`, which is built to be cut everywhere. A plan is
// - a style for each pattern of module names, in which * stands for any text, with or without the "model." or
//   "transformer." that they start with. A style decides whether its modules are cut, and says where results go, which
//   changes nothing here: colwise and colwise_rep for first products and the head, rowwise and rowwise_rep for last
//   products and the embedding; sequence_parallel, replicated_with_grad_allreduce, gather, local_* and ep_* cut
//   nothing;
// - or "auto", or "llama_nemotron_super_tp_plan" under any dotted name: everything.
// What cannot be done goes to `problems` at "tp_plan" or below it: an unknown name or style, a pattern without a
// module, a style that a module cannot have, a part of what can only be cut as a whole. Then nothing is cut.
TensorCuts cuts_of(CausalLM& model, const distributed::TpPlan& plan, config::Problems& problems);

}  // namespace automodel::models

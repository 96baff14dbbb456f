#include "models/causal_lm.h"

#include <utility>

#include "core/error.h"
#include "ops/pointwise.h"

namespace automodel::models {

using autograd::Var;

CausalLM::CausalLM(Parts parts) : parts_(std::move(parts)) {}

Var CausalLM::embed(autograd::Tape& tape, const nn::Tokens& tokens) {
  if (parts_.info.absolute_positions)
    AM_CHECK(tokens.positions_end() <= parts_.info.max_positions, Fault::kData,
             "a sequence of {} tokens is longer than the {} positions of the model; use shorter sequences",
             tokens.positions_end(), parts_.info.max_positions);
  Var x = ops::embedding(tape, tokens.ids, parts_.token_embedding);
  if (parts_.position_embedding) x = ops::add(x, ops::embedding(tape, tokens.positions, *parts_.position_embedding));
  return parts_.embedding_dropout.forward(x, tokens);
}

Var CausalLM::layer(int i, const Var& x, const nn::Tokens& tokens) {
  nn::Block& block = *parts_.blocks[static_cast<size_t>(i)];
  if (tokens.cache == nullptr) return block.forward(x, tokens);
  nn::Tokens here = tokens;
  here.layer = i;
  return block.forward(x, here);
}

ops::HeadLoss CausalLM::loss(const Var& x, const nn::Tokens& tokens, float grad_scale) {
  return ops::head_loss(parts_.final_norm.forward(x), head(), tokens.labels, grad_scale);
}

Tensor CausalLM::logits(const Var& x) {
  return ops::head_logits(parts_.final_norm.forward(x).value, head(), x.tape->allocator());
}

void CausalLM::release_memory() {
  if (parts_.rope) parts_.rope->clear();
}

std::vector<nn::Param*> CausalLM::root_params() {
  std::vector<nn::Param*> out{&parts_.token_embedding};
  if (parts_.position_embedding) out.push_back(&*parts_.position_embedding);
  parts_.final_norm.collect(out);
  if (parts_.head) out.push_back(&*parts_.head);
  return out;
}

std::vector<nn::Param*> CausalLM::layer_params(int i) {
  return parts_.blocks[static_cast<size_t>(i)]->params();
}

std::vector<nn::Param*> CausalLM::params() {
  std::vector<nn::Param*> out = root_params();
  for (int i = 0; i < layers(); ++i) {
    auto layer = layer_params(i);
    out.insert(out.end(), layer.begin(), layer.end());
  }
  return out;
}

}  // namespace automodel::models

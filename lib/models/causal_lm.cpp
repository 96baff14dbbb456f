#include "models/causal_lm.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "ops/pointwise.h"
#include "ops/tensor_parallel.h"

namespace automodel::models {

using autograd::Var;

namespace {

// The rank's rows of i32 [T]; rows past the end are 0.
Tensor own_rows(const Tensor& all, const nn::Tokens& tokens, Allocator& allocator) {
  Interval rows = tokens.ranks().rows(tokens.count());
  int64_t here = std::clamp<int64_t>(tokens.count() - rows.begin, 0, rows.size());
  if (here == rows.size()) return all.narrow(rows.begin, here);
  Tensor own = Tensor::empty({rows.size()}, all.dtype(), allocator);
  if (here > 0) copy(own.narrow(0, here), all.narrow(rows.begin, here));
  zero(own.narrow(here, rows.size() - here));
  return own;
}

int64_t first_row(const nn::Param& table) {
  return table.kept.empty() ? 0 : table.kept[0].begin;
}

}  // namespace

CausalLM::CausalLM(Parts parts) : parts_(std::move(parts)) {
  const ModelInfo& info = parts_.info;
  AM_CHECK(parts_.head || parts_.cut_embedding == parts_.cut_head, Fault::kBug,
           "the embedding is the head, and only one of them is cut");
  const std::vector<nn::SplitPart> tokens{{info.vocab_size, info.vocab_size}};
  if (parts_.cut_embedding) parts_.token_embedding.split = {0, tokens, true};
  if (parts_.cut_head && parts_.head) parts_.head->split = {0, tokens};
  if (parts_.position_embedding) parts_.position_embedding->acts_on_rows = true;
}

void CausalLM::place(int tp_rank, int tp_size) {
  for (nn::Param* p : params()) p->place(tp_rank, tp_size);
}

Var CausalLM::embed(autograd::Tape& tape, const nn::Tokens& tokens) {
  if (parts_.info.absolute_positions)
    AM_CHECK(tokens.positions_end() <= parts_.info.max_positions, Fault::kData,
             "a sequence of {} tokens is longer than the {} positions of the model; use shorter sequences",
             tokens.positions_end(), parts_.info.max_positions);
  Var x = ops::embedding(tape, tokens.ids, parts_.token_embedding, first_row(parts_.token_embedding));
  x = nn::leave_products(x, tokens, parts_.cut_embedding);
  if (parts_.position_embedding) {
    Tensor positions = own_rows(tokens.positions, tokens, tape.allocator());
    x = ops::add(x, ops::embedding(tape, positions, *parts_.position_embedding));
  }
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
  Var normed = nn::enter_products(parts_.final_norm.forward(x), tokens, parts_.cut_head);
  return ops::head_loss(normed, head(), tokens.labels, grad_scale, vocabulary_part(tokens.ranks()));
}

ops::VocabularyPart CausalLM::vocabulary_part(const nn::Parallel& ranks) {
  if (ranks.tp_size() == 1 || !parts_.cut_head) return {};
  int64_t each = (parts_.info.vocab_size + ranks.tp_size() - 1) / ranks.tp_size();
  return {ranks.tp, first_row(head()), each};
}

Tensor CausalLM::logits(const Var& x, const nn::Parallel& ranks) {
  Allocator& allocator = x.tape->allocator();
  Tensor own = ops::head_logits(parts_.final_norm.forward(x).value, head(), allocator);
  return ranks.tp_size() == 1 || !parts_.cut_head ? own
                                                  : ops::gather_vocabulary(own, parts_.info.vocab_size, *ranks.tp);
}

void CausalLM::release_memory() {
  if (parts_.rope) parts_.rope->clear();
}

std::vector<nn::Param*> CausalLM::embedding_params() {
  std::vector<nn::Param*> out{&parts_.token_embedding};
  if (parts_.position_embedding) out.push_back(&*parts_.position_embedding);
  return out;
}

std::vector<nn::Param*> CausalLM::head_params() {
  std::vector<nn::Param*> out;
  parts_.final_norm.collect(out);
  out.push_back(&head());
  return out;
}

std::vector<nn::Param*> CausalLM::root_params() {
  std::vector<nn::Param*> out = embedding_params();
  for (nn::Param* p : head_params())
    if (p != &parts_.token_embedding) out.push_back(p);
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

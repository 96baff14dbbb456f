#include "nn/dropout.h"

#include "core/error.h"
#include "core/rng.h"
#include "ops/pointwise.h"

namespace automodel::nn {

Dropout::Dropout(const std::string& name, double p) : name_(hash_name(name)), p_(static_cast<float>(p)) {}

ops::DropoutArgs Dropout::args(const Tokens& tokens) const {
  if (p_ == 0 || !tokens.dropout_key) return {};
  AM_CHECK(tokens.samples.defined() && tokens.samples.numel() == tokens.batch, Fault::kBug,
           "dropout: the {} rows of the batch are not numbered", tokens.batch);
  return {p_, Random(*tokens.dropout_key, name_).bits64(0), &tokens.samples};
}

autograd::Var Dropout::forward(const autograd::Var& x, const Tokens& tokens) const {
  ops::DropoutArgs dropout = args(tokens);
  if (tokens.places.defined()) dropout.places = &tokens.places;
  return dropout.p > 0 ? ops::dropout(x, dropout) : x;
}

}  // namespace automodel::nn

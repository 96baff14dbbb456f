// Dropout at one place of a model, in training only. Its masks are a function of the run's seed, the step, the sample,
// the place's name and the element, so they are the same on any mesh, for any microbatches and when a block is computed
// again; they are never kept.
#pragma once

#include <cstdint>
#include <string>

#include "autograd/tape.h"
#include "nn/tokens.h"

namespace automodel::nn {

class Dropout {
 public:
  Dropout() = default;  // drops nothing
  Dropout(const std::string& name, double p);

  // For attention; p is 0 where `tokens` are not trained on. Points into `tokens`.
  ops::DropoutArgs args(const Tokens& tokens) const;
  // The value of x [T, D] may be overwritten. Records nothing where nothing is dropped.
  autograd::Var forward(const autograd::Var& x, const Tokens& tokens) const;

 private:
  uint64_t name_ = 0;
  float p_ = 0;
};

}  // namespace automodel::nn

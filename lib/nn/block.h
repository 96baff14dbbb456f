// A repeated piece of a model: owns its weights, runs forward only (gradients come from the tape).
#pragma once

#include <memory>
#include <vector>

#include "nn/param.h"
#include "nn/tokens.h"

namespace automodel::nn {

class MoeMlp;

class Block {
 public:
  virtual ~Block() = default;
  // x [T, hidden] -> [T, hidden].
  virtual autograd::Var forward(const autograd::Var& x, const Tokens& tokens) = 0;
  // The block's layer of experts, if it has one.
  virtual MoeMlp* experts() { return nullptr; }
  // autograd::CheckpointOptions::ends_in_sum holds.
  virtual bool ends_in_sum() const { return false; }
  // All weights, in the order in which they lie in a unit's flat buffer. The pointers stay valid as long as the block.
  virtual std::vector<Param*> params() = 0;
};

}  // namespace automodel::nn

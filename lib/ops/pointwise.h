// Element-wise ops and the embedding.
#pragma once

#include "autograd/tape.h"
#include "ops/kernels.h"

namespace automodel::ops {

// a + b of one shape (the residual connection).
autograd::Var add(const autograd::Var& a, const autograd::Var& b);

// act(gate) * up of gate_up [T, 2F] (gate first): SwiGLU and its relatives (Shazeer, 2020). Can be made again from
// gate_up, so its consumer keeps nothing of it.
autograd::Var gated(const autograd::Var& gate_up, Activation act);

autograd::Var activation(const autograd::Var& x, Activation act);

// Dropout; x [T, D] is overwritten. The mask is made again in the backward. What `args` points to is only read here.
autograd::Var dropout(const autograd::Var& x, const DropoutArgs& args);

// Rows of `table` [V, D] for ids i32 [T]: [T, D] in the table's type. The table is rows [first, first + V) of a larger
// one; ids of other rows give zeros.
autograd::Var embedding(autograd::Tape& tape, const Tensor& ids, autograd::Param& table, int64_t first = 0);

// The tape's way to add gradients: y += x.
void add_into(Tensor& y, const Tensor& x);

}  // namespace automodel::ops

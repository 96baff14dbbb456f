// y = x W^T (+ b), for one weight or for several that read the same input and whose outputs stand side by side.
#pragma once

#include <span>

#include "autograd/tape.h"
#include "ops/kernels.h"

namespace automodel::ops {

// One projection. Hugging Face stores nn.Linear weights as [out, in] and GPT-2's Conv1D weights as [in, out].
struct Projection {
  autograd::Param* weight = nullptr;
  autograd::Param* bias = nullptr;  // [out] or nullptr
  bool in_out = false;
  // False: the forward leaves the bias out (another rank adds it to the sum that this product is a part of).
  bool adds_bias = true;
};

// x [T, in] -> [T, sum of the outs]. Weights that lie one after the other in memory, [out, in] and without bias, are
// read as one matrix, so that q, k, v or gate, up are one product each. Weights without requires_grad get no gradient,
// and x is then not kept.
autograd::Var linear(const autograd::Var& x, std::span<const Projection> projections);
inline autograd::Var linear(const autograd::Var& x, const Projection& projection) {
  return linear(x, std::span(&projection, 1));
}

// What linear() finds out about projections that read the same x. Throws Error(kShape) when x does not fit.
struct Joint {
  int64_t width = 0;           // the sum of the outs
  bool trains_weight = false;  // some weight wants a gradient
  bool trains = false;         // some weight or bias does
  bool biased = false;
  autograd::Work work() const { return biased ? autograd::Work::kBiasedProduct : autograd::Work::kProduct; }
};
Joint joint_of(const Tensor& x, std::span<const Projection> projections);

// The parts of linear(), for ops that contain products. y [T, sum of the outs]; dx (+)= dy W; the gradients of the
// weights and biases that want one. `alike`: a row is rounded in the same way however many there are.
void project(const Tensor& y, const Tensor& x, std::span<const Projection> projections, bool alike = false);
void project_gradient(const autograd::Slot& dx, const Tensor& dy, std::span<const Projection> projections);
void weight_gradients(const Tensor& x, const Tensor& dy, std::span<const Projection> projections);

// y = x w, or x w^T with transpose_b, plus a bias; no gradient. A single row goes at the speed of reading w.
void product(const Tensor& y, const Tensor& x, const Tensor& w, const MatmulArgs& args);

}  // namespace automodel::ops

// A mixture of experts (Shazeer et al., 2017): a router chooses k of n gated MLPs for each token, and the token gets
// the weighted sum of what they make of it. Tokens that choose an expert are one product, whose rows lie together.
#pragma once

#include <array>
#include <span>

#include "autograd/tape.h"
#include "comm/communicator.h"
#include "ops/kernels.h"
#include "ops/linear.h"

namespace automodel::ops {

struct Router {
  autograd::Param* weight = nullptr;  // [n, D], no bias
  int64_t top_k = 1;
  bool renormalise = false;  // the k weights of a token sum to 1
  Tensor bias = {};          // f32 [n]: added to the probabilities for the choice alone; undefined: none
};

// The rows of x: `count` tokens, then padding. They are tokens first, first + 1, ... of `samples` rows of `sequence`
// tokens; other ranks may have other tokens of the same samples.
struct RoutedRows {
  int64_t count = 0;
  int64_t first = 0;
  int64_t samples = 1;
  int64_t sequence = 1;
  Tensor real = {};     // i32 [count], 0 where there is padding among the tokens; undefined: nowhere
  int64_t padding = 0;  // so often
};

// The loss that asks for balance (Fedus et al., "Switch Transformers", 2021, equations 4 to 6), of each sample:
//   sum over the experts of f_e P_e,  f_e = n / k * (copies of the sample's tokens for e) / tokens,
//   P_e = the mean of their probabilities for e;  it is 1 when all experts get the same.
// f_e is constant for the gradient. Only the gradient joins the step: `scale` * (labels of the sample) * loss.
struct Balance {
  float scale = 0;                                  // 0: none
  Tensor labels = {};                               // i32, of the `count` tokens
  std::array<comm::Communicator*, 2> sharing = {};  // ranks that have other tokens of the samples; null: none
};

// What a router chose. The tensors are those of the kernel order_copies.
struct Routing {
  autograd::Var weights;  // f32 [T, k]
  Tensor experts;         // i32 [T, k]
  Tensor counts, slots, copies, tokens;
  int64_t all_copies = 0;  // k for each token, if its logits are numbers
  Tensor balance;  // f32 [samples], the loss of each sample; undefined without Balance, or when nothing is recorded
};

// x [T, D] -> the choice: softmax of the fp32 logits, the k largest, of equal ones the lower expert. The same x gives
// the same choice. Collective over balance.sharing when scale is not 0 and the tape records.
Routing route(const autograd::Var& x, const Router& router, const RoutedRows& rows, const Balance& balance = {});

// down(act(gate(x)) * up(x)).
struct Expert {
  std::array<Projection, 2> gate_up;
  Projection down;
};

struct ExpertsArgs {
  Activation activation = Activation::kSilu;
  comm::Communicator* ranks = nullptr;  // that share the experts; null: this one alone
  // A row is rounded in the same way however many there are, so that ranks that share experts give the bits of one that
  // has all. False: single rows go at the speed of reading the weights.
  bool alike = true;
};

// [T, D] -> [T, D]: the sum over the choices of a token, in their order, of weight times expert. `own`: the experts of
// this rank, [e n/E, (e+1) n/E) on rank e of E; the others' weights are not touched. Experts that nobody chose get no
// gradient (autograd::Param::begin_grad). Collective over args.ranks, in the forward and the backward, whether or not a
// rank has tokens; never in the work of the weights' gradients.
autograd::Var experts(const autograd::Var& x, const Routing& routing, std::span<const Expert> own,
                      const ExpertsArgs& args);

}  // namespace automodel::ops

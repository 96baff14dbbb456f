// Products beside a change between rows in parts and rows in common (ops/tensor_parallel.h): the two as one op, so that
// rows can travel while others are multiplied (Wang et al., "Overlap Communication with Dependent Computation via
// Decomposition in Large Deep Learning Models", 2023).
//
// Every product is computed in one piece for the rows of each rank, whether they travel meanwhile or not, and sums are
// in the communicator's canonical order: `ahead` changes no bit. It takes memory for what arrives before it is needed.
#pragma once

#include <span>

#include "comm/communicator.h"
#include "ops/linear.h"

namespace automodel::ops {

// How ranks share rows: each has the next ceil(rows / n), the last ones perhaps fewer, padded.
struct RowShares {
  comm::Communicator& ranks;  // outlives the passes
  int64_t rows = 0;           // of all
  bool ahead = false;         // rows travel while others are multiplied
};

// linear(gather_rows(x)): x [ceil(rows / n), in] -> [rows, sum of the outs].
autograd::Var linear_of_gathered(const autograd::Var& x, std::span<const Projection> projections,
                                 const RowShares& shares);

// sum_to_rows(linear(x)): x [rows, in] -> [ceil(rows / n), out].
autograd::Var linear_to_rows(const autograd::Var& x, const Projection& projection, const RowShares& shares);

}  // namespace automodel::ops

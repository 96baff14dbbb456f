// Between values that tensor-parallel ranks hold in common and values that they hold in parts: collectives as ops, each
// the other's backward (Shoeybi et al. 2019; with rows in parts: Korthikanti et al. 2022). Sums are in the
// communicator's canonical order, so ranks that hold a value in common hold the same bits. With one rank each is the
// identity.
#pragma once

#include "autograd/tape.h"
#include "comm/communicator.h"

namespace automodel::ops {

// x, which all ranks have, as the input of what each computes a part of: the gradient is the sum over the ranks.
autograd::Var spread(const autograd::Var& x, comm::Communicator& ranks);

// The sum of the ranks' x, for all of them. The value of x is overwritten.
autograd::Var sum(const autograd::Var& x, comm::Communicator& ranks);

// The first `rows` of the rows that the ranks have in parts, [ceil(rows / n), D] each, for all of them, as the input of
// what each computes a part of. Whoever would keep it for its backward gathers it again instead.
autograd::Var gather_rows(const autograd::Var& x, int64_t rows, comm::Communicator& ranks);

// The sum of the ranks' x [rows, D], in parts [ceil(rows / n), D] with rows of zeros at the end.
autograd::Var sum_to_rows(const autograd::Var& x, comm::Communicator& ranks);

// The rank's rows of x, which all ranks have: [ceil(rows / n), D], with rows of zeros at the end; and the first `rows`
// of the rows that the ranks have in parts, for all of them to compute the same with (gathered again like those of
// gather_rows).
autograd::Var part_of_rows(const autograd::Var& x, comm::Communicator& ranks);
autograd::Var join_rows(const autograd::Var& x, int64_t rows, comm::Communicator& ranks);

}  // namespace automodel::ops

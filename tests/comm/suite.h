// What every backend must do, as one function that each rank runs. A breach throws Error(kBug) that says what differs.
#pragma once

#include "comm/communicator.h"

namespace automodel::test {

// Reductions, gathers and all_to_all against a reference computed from the inputs of all ranks, bit by bit; adjoint
// pairs.
void check_collectives(comm::Communicator& c);
// Messages between two ranks: order, tags, sizes, to oneself.
void check_point_to_point(comm::Communicator& c);
// Operations in flight, waited for in other orders than they were started in, differently on each rank.
void check_asynchrony(comm::Communicator& c);
// split and group, nested, at the same time, of some ranks only.
void check_groups(comm::Communicator& c);

}  // namespace automodel::test

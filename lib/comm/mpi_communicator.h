// Ranks that are MPI processes; host memory. mpi.h stays in the sources.
//
// Nothing of MPI's own collectives but barrier and broadcast is used: gathers and reductions are exchanges of slices
// between all pairs of ranks plus the local tree sum, because MPI promises no order of summation, knows no bf16, and
// OpenMPI's reduce_scatter is four times slower than the exchange. A waiting rank spins briefly, then polls with
// sleeps, so that it leaves its core to others. While it waits, every operation in flight of this rank makes progress,
// on whatever communicator.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace automodel::comm {

struct MpiOptions;  // comm/world.h

struct MpiWorld {
  std::shared_ptr<void> runtime;  // finalizes MPI when it goes; after the communicators
  std::unique_ptr<Communicator> global;
  int local_rank;
  int local_size;
};

// See World::mpi.
MpiWorld join_mpi(const MpiOptions& options);

}  // namespace automodel::comm

// Ranks that are threads of one process: whole meshes in milliseconds, for tests. Same results, bit for bit, as the mpi
// backend; a call that two ranks disagree about (kind or size) is an error on both that names the two calls.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace automodel::comm {

// The communicators of ranks 0..n-1 of a new world, to be used by a thread each. A wait longer than `deadline` aborts
// the world, naming what was waited for. abort() wakes every rank with Error(kComm).
std::vector<std::unique_ptr<Communicator>> make_threads(int n,
                                                        std::chrono::milliseconds deadline = std::chrono::minutes(5));

}  // namespace automodel::comm

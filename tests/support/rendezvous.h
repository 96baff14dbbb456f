// Communicators whose messages behave as the least obliging MPI allows: a send completes only once its receive was
// posted, and nothing moves except while one of the two ranks is inside wait() or ready(). Where a program runs on
// these, no order of messages can hang it. Exchanges only; every other call is Error(kBug).
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace automodel::test {

// Of ranks 0..n-1, each for a thread of its own. A wait longer than `deadline` is Error(kComm).
std::vector<std::unique_ptr<comm::Communicator>> make_rendezvous(
    int n, std::chrono::milliseconds deadline = std::chrono::seconds(10));

}  // namespace automodel::test

// Runs a body once per rank, each rank a thread: whole meshes in milliseconds.
#pragma once

#include <chrono>
#include <functional>

#include "comm/world.h"

namespace automodel::test {

// Each rank runs `body` with a World of its own and one OpenMP thread. When a rank throws, the others are woken (their
// communicator calls fail), all threads are joined, and the failure that came first is thrown again with its own type.
// A rank that waits for a peer longer than `deadline` fails, naming what it waited for, so nobody hangs in a call.
// doctest assertions may be used inside; a failed REQUIRE ends its rank like any exception.
void run_mesh(int n, const std::function<void(comm::World&)>& body,
              std::chrono::milliseconds deadline = std::chrono::seconds(60));

}  // namespace automodel::test

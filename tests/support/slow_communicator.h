// A communicator whose transfers take time on an imagined wire, for tests of overlap: an operation's bytes begin to
// pass when its last rank has started it, one operation of a rank after the other, and the rank may compute meanwhile.
// What wait() still has to sleep when all ranks have come is the part that nothing hid. For ranks that are threads
// (they compare their clocks); an exchange begins to pass when the own rank starts it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace automodel::test {

// The wire of one rank; the communicators made from a slow one share it. Used by one thread.
struct Wire {
  double seconds_per_byte = 0;  // bytes as comm::CallRecord counts them
  double total = 0;             // seconds that transfers took
  double exposed = 0;           // of them, seconds in which the rank slept for them in wait()
  std::chrono::steady_clock::time_point free{};
  std::deque<std::function<void()>> queue{};  // operations whose end is not known yet, each to be told
};

// `inner` and `wire` outlive the result.
std::unique_ptr<comm::Communicator> make_slow(comm::Communicator& inner, Wire& wire);

}  // namespace automodel::test

#include "comm/patience.h"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace automodel::comm {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

Patience::Patience(int64_t bytes, milliseconds deadline)
    : start_(Clock::now()), spin_(microseconds(50) + nanoseconds(2 * bytes)), deadline_(deadline) {}

bool Patience::pause() {
  const nanoseconds elapsed = Clock::now() - start_;
  if (elapsed > deadline_) return false;
  if (elapsed < spin_) {
    sched_yield();  // with a core to itself a rank comes back at once
  } else {
    // An eighth of the wait: late by at most that share, and at most a millisecond.
    std::this_thread::sleep_for(std::clamp<nanoseconds>(elapsed / 8, microseconds(10), milliseconds(1)));
  }
  return true;
}

milliseconds Patience::waited() const {
  return duration_cast<milliseconds>(Clock::now() - start_);
}

}  // namespace automodel::comm

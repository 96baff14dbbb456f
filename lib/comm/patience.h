// How to wait for something that has to be polled: briefly at full speed, then with sleeps that grow with the time
// already spent, so that a waiting rank leaves its core to the rank it waits for.
#pragma once

#include <chrono>
#include <cstdint>

namespace automodel::comm {

class Patience {
 public:
  // Polls without sleeping for 50 us plus what moving `bytes` takes at 0.5 GB/s: transfers through shared memory and
  // sockets advance only while somebody polls.
  Patience(int64_t bytes, std::chrono::milliseconds deadline);

  // To be called after each poll in vain. False when the deadline has passed.
  bool pause();

  std::chrono::milliseconds waited() const;

 private:
  std::chrono::steady_clock::time_point start_;
  std::chrono::nanoseconds spin_;
  std::chrono::milliseconds deadline_;
};

}  // namespace automodel::comm

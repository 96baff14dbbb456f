// A stand-in for NCCL between guarded devices of ranks that are threads, for tests of comm/device_ranks.h. It is as
// little obliging as the seam allows: each channel works in a thread of its own, one call after the other, whenever it
// likes; connecting takes several polls; messages are matched by order alone, and end when both sides have come. A call
// that breaks the seam's rules is Error(kBug). Sums are those of comm::make_threads, in the canonical order.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/device_link.h"

namespace automodel::test {

class ThreadNetwork {
 public:
  ThreadNetwork();
  ~ThreadNetwork();  // after all links
  ThreadNetwork(const ThreadNetwork&) = delete;
  ThreadNetwork& operator=(const ThreadNetwork&) = delete;

  // The link of one rank, for its thread; `device` is its guarded device's index.
  std::unique_ptr<comm::DeviceLink> link(int rank, int device);

  // What the rank asked of its links: "join 0 of 2", "split 3 1", "all_gather 'tp'", ...
  std::vector<std::string> calls(int rank) const;
  // From now on every channel of the rank reports this.
  void break_rank(int rank, std::string trouble);
  // Channels that were made and are not gone.
  int channels() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace automodel::test

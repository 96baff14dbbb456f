// The calls of a step between ranks, counted.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/planning.h"

namespace automodel::plan {

// Calls that are alike.
struct TrafficRow {
  comm::CallRecord call;
  int64_t count = 0;

  int64_t bytes() const { return count * call.bytes; }
  int64_t sent_bytes() const { return count * call.sent_bytes(); }
};

class Traffic {
 public:
  void add(const comm::CallRecord& call, int64_t count = 1);
  // Adds `times` times the calls of `other`; times may be negative. Rows that come to nothing go.
  void add(const Traffic& other, int64_t times);

  // In the order in which each kind of call came first.
  const std::vector<TrafficRow>& rows() const { return rows_; }
  int64_t calls() const;
  int64_t sent_bytes() const;  // by this rank

  // Whether the same calls were counted, in whatever order.
  bool operator==(const Traffic& other) const;

 private:
  std::vector<TrafficRow> rows_;
};

}  // namespace automodel::plan

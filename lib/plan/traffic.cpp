#include "plan/traffic.h"

#include <algorithm>
#include <numeric>

namespace automodel::plan {
namespace {

bool alike(const comm::CallRecord& a, const comm::CallRecord& b) {
  return a.call == b.call && a.size == b.size && a.bytes == b.bytes && a.peer == b.peer && a.axis == b.axis;
}

}  // namespace

void Traffic::add(const comm::CallRecord& call, int64_t count) {
  auto row = std::ranges::find_if(rows_, [&](const TrafficRow& r) { return alike(r.call, call); });
  if (row == rows_.end()) row = rows_.insert(rows_.end(), {call, 0});
  row->count += count;
}

void Traffic::add(const Traffic& other, int64_t times) {
  for (const TrafficRow& row : other.rows_) add(row.call, row.count * times);
  std::erase_if(rows_, [](const TrafficRow& row) { return row.count == 0; });
}

int64_t Traffic::calls() const {
  return std::accumulate(rows_.begin(), rows_.end(), int64_t{0},
                         [](int64_t n, const TrafficRow& row) { return n + row.count; });
}

int64_t Traffic::sent_bytes() const {
  return std::accumulate(rows_.begin(), rows_.end(), int64_t{0},
                         [](int64_t n, const TrafficRow& row) { return n + row.sent_bytes(); });
}

bool Traffic::operator==(const Traffic& other) const {
  Traffic difference = *this;
  difference.add(other, -1);
  return difference.rows_.empty();
}

}  // namespace automodel::plan

// The part of every backend that is the same: handles, argument checks, split by way of group.
#include "comm/communicator.h"

#include <algorithm>
#include <exception>

#include "core/error.h"

namespace automodel::comm {

const char* name_of(Reduce op) {
  switch (op) {
    case Reduce::kSum:
      return "sum";
    case Reduce::kMax:
      return "max";
    case Reduce::kMin:
      return "min";
  }
  return "?";
}

Pending& Pending::operator=(Pending&& other) noexcept {
  if (this != &other) {
    give_up();
    operation_ = std::exchange(other.operation_, nullptr);
  }
  return *this;
}

Pending::~Pending() {
  give_up();
}

void Pending::wait() {
  if (operation_ == nullptr) return;
  Operation* operation = std::exchange(operation_, nullptr);
  try {
    operation->wait();
  } catch (...) {
    operation->release(false);
    throw;
  }
  operation->release(true);
}

void Pending::give_up() noexcept {
  if (operation_ == nullptr) return;
  if (std::uncaught_exceptions() > 0) {
    std::exchange(operation_, nullptr)->release(false);
    return;
  }
  try {
    wait();
  } catch (...) {  // a destructor has nobody to tell; the next call on the communicator fails too
  }
}

namespace {

void check_reach(const Communicator& c, const char* call, ConstBuffer buffer) {
  AM_CHECK(c.reaches(buffer.device), Fault::kBug, "{} on '{}': memory of {}:{} is out of its reach", call, c.name(),
           automodel::name_of(buffer.device), buffer.device.index);
}

bool can_reduce(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF64 || dtype == DType::kI32 ||
         dtype == DType::kI64 || dtype == DType::kU8;
}

void check_reducible(const Communicator& c, const char* call, ConstBuffer buffer) {
  AM_CHECK(can_reduce(buffer.dtype), Fault::kBug,
           "{} on '{}': cannot reduce {}; use float32, bfloat16, float64, int32, int64 or uint8", call, c.name(),
           automodel::name_of(buffer.dtype));
  check_reach(c, call, buffer);
}

void check_slices(const Communicator& c, const char* call, ConstBuffer whole, ConstBuffer slice) {
  AM_CHECK(whole.dtype == slice.dtype, Fault::kBug, "{} on '{}': the buffers have types {} and {}", call, c.name(),
           automodel::name_of(whole.dtype), automodel::name_of(slice.dtype));
  AM_CHECK(whole.device == slice.device, Fault::kBug, "{} on '{}': the buffers are of {}:{} and {}:{}", call, c.name(),
           automodel::name_of(whole.device), whole.device.index, automodel::name_of(slice.device), slice.device.index);
  check_reach(c, call, whole);
  AM_CHECK(whole.count == c.size() * slice.count, Fault::kBug,
           "{} on '{}': {} elements are not {} slices of {} elements", call, c.name(), whole.count, c.size(),
           slice.count);
}

int64_t checked_sum(const Communicator& c, std::span<const int64_t> counts) {
  AM_CHECK(static_cast<int>(counts.size()) == c.size(), Fault::kBug, "all_to_all on '{}': {} counts for {} ranks",
           c.name(), counts.size(), c.size());
  int64_t total = 0;
  for (int64_t count : counts) {
    AM_CHECK(count >= 0, Fault::kBug, "all_to_all on '{}': negative count {}", c.name(), count);
    total += count;
  }
  return total;
}

}  // namespace

Pending Communicator::start_all_reduce(Buffer data, Reduce op) {
  check_reducible(*this, "all_reduce", data);
  if (data.count == 0) return {};
  return do_all_reduce(data, op);
}

Pending Communicator::start_all_gather(Buffer out, ConstBuffer in) {
  check_slices(*this, "all_gather", out, in);
  if (in.count == 0) return {};
  return do_all_gather(out, in);
}

Pending Communicator::start_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) {
  check_reducible(*this, "reduce_scatter", in);
  check_slices(*this, "reduce_scatter", in, out);
  if (out.count == 0) return {};
  return do_reduce_scatter(out, in, op);
}

Pending Communicator::start_broadcast(Buffer data, int root) {
  AM_CHECK(root >= 0 && root < size_, Fault::kBug, "broadcast on '{}': root {} is not one of {} ranks", name_, root,
           size_);
  check_reach(*this, "broadcast", data);
  if (data.count == 0) return {};
  return do_broadcast(data, root);
}

Pending Communicator::start_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                       std::span<const int64_t> receive_bytes) {
  const int64_t sent = checked_sum(*this, send_bytes), received = checked_sum(*this, receive_bytes);
  AM_CHECK(sent <= in.bytes() && received <= out.bytes(), Fault::kBug,
           "all_to_all on '{}': sends {} of {} bytes and receives {} into {}", name_, sent, in.bytes(), received,
           out.bytes());
  AM_CHECK(send_bytes[static_cast<size_t>(rank_)] == receive_bytes[static_cast<size_t>(rank_)], Fault::kBug,
           "all_to_all on '{}': rank {} sends itself {} bytes and expects {}", name_, rank_,
           send_bytes[static_cast<size_t>(rank_)], receive_bytes[static_cast<size_t>(rank_)]);
  check_reach(*this, "all_to_all", out);
  check_reach(*this, "all_to_all", in);
  return do_all_to_all(out, in, send_bytes, receive_bytes);
}

Pending Communicator::start_exchange(std::span<const Transfer> transfers) {
  for (const Transfer& t : transfers) {
    AM_CHECK(t.peer >= 0 && t.peer < size_, Fault::kBug, "exchange on '{}': peer {} is not one of {} ranks", name_,
             t.peer, size_);
    AM_CHECK(t.tag >= 0 && t.tag <= Transfer::kMaxTag, Fault::kBug, "exchange on '{}': tag {} is not in 0..{}", name_,
             t.tag, Transfer::kMaxTag);
    check_reach(*this, "exchange", t.data);
  }
  if (transfers.empty()) return {};
  return do_exchange(transfers);
}

void Communicator::send(int to, ConstBuffer data, int tag) {
  const Transfer transfer = Transfer::send(to, data, tag);
  exchange({&transfer, 1});
}

void Communicator::receive(int from, Buffer data, int tag) {
  const Transfer transfer = Transfer::receive(from, data, tag);
  exchange({&transfer, 1});
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  const std::vector<int32_t> mine{color, key};
  std::vector<int32_t> all(2 * static_cast<size_t>(size_));
  all_gather(buffer_of(all), buffer_of(mine));
  if (color < 0) return nullptr;
  const auto key_of = [&](int rank) { return all[2 * static_cast<size_t>(rank) + 1]; };
  std::vector<int> members;
  for (int r = 0; r < size_; ++r) {
    if (all[2 * static_cast<size_t>(r)] == color) members.push_back(r);
  }
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return key_of(a) < key_of(b); });
  return group(members, std::move(name));
}

}  // namespace automodel::comm

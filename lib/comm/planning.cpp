#include "comm/planning.h"

#include "core/error.h"

namespace automodel::comm {

const char* name_of(Call call) {
  switch (call) {
    case Call::kAllReduce:
      return "all_reduce";
    case Call::kAllGather:
      return "all_gather";
    case Call::kReduceScatter:
      return "reduce_scatter";
    case Call::kBroadcast:
      return "broadcast";
    case Call::kAllToAll:
      return "all_to_all";
    case Call::kSend:
      return "send";
    case Call::kReceive:
      return "receive";
    case Call::kBarrier:
      return "barrier";
  }
  return "?";
}

int64_t CallRecord::sent_bytes() const {
  const int64_t others = bytes * (size - 1) / size;
  switch (call) {
    case Call::kAllReduce:
      return 2 * others;
    case Call::kAllGather:
    case Call::kReduceScatter:
      return others;
    case Call::kBroadcast:
      return size > 1 ? bytes : 0;
    case Call::kAllToAll:
    case Call::kSend:
      return bytes;
    case Call::kReceive:
    case Call::kBarrier:
      return 0;
  }
  return 0;
}

namespace {

class PlanningCommunicator final : public Communicator {
 public:
  PlanningCommunicator(std::string name, int rank, int size, Recorder recorder)
      : Communicator(std::move(name), rank, size), recorder_(std::move(recorder)) {}

  std::unique_ptr<Communicator> split(int, int, std::string name) override {
    fail(Fault::kBug, "split '{}': a plan cannot ask other ranks for their colors; name the members with group()",
         name);
  }

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    for (size_t i = 0; i < members.size(); ++i) {
      if (members[i] == rank())
        return make_planning(static_cast<int>(i), static_cast<int>(members.size()), recorder_, name);
    }
    fail(Fault::kBug, "group '{}' of '{}': rank {} is not among its members", name, this->name(), rank());
  }

  void barrier() override { record(Call::kBarrier, 0).wait(); }
  void abort(std::string_view) noexcept override {}

 protected:
  Pending do_all_reduce(Buffer data, Reduce) override { return record(Call::kAllReduce, data.bytes()); }
  Pending do_all_gather(Buffer out, ConstBuffer) override { return record(Call::kAllGather, out.bytes()); }
  Pending do_reduce_scatter(Buffer, ConstBuffer in, Reduce) override {
    return record(Call::kReduceScatter, in.bytes());
  }
  Pending do_broadcast(Buffer data, int) override { return record(Call::kBroadcast, data.bytes()); }
  Pending do_all_to_all(Buffer, ConstBuffer, std::span<const int64_t> send_bytes, std::span<const int64_t>) override {
    int64_t total = 0;
    for (int r = 0; r < size(); ++r) total += r == rank() ? 0 : send_bytes[static_cast<size_t>(r)];
    return record(Call::kAllToAll, total);
  }
  Pending do_exchange(std::span<const Transfer> transfers) override {
    for (const Transfer& t : transfers) {
      const bool sends = t.direction == Transfer::Direction::kSend;
      record(sends ? Call::kSend : Call::kReceive, t.data.bytes(), t.peer).wait();
    }
    return {};
  }

 private:
  Pending record(Call call, int64_t bytes, int peer = -1) {
    if (recorder_) recorder_({call, name(), size(), bytes, peer});
    return {};
  }

  Recorder recorder_;
};

}  // namespace

std::unique_ptr<Communicator> make_planning(int rank, int size, Recorder recorder, std::string name) {
  AM_CHECK(size >= 1 && rank >= 0 && rank < size, Fault::kBug, "planning: rank {} of {}", rank, size);
  return std::make_unique<PlanningCommunicator>(std::move(name), rank, size, std::move(recorder));
}

}  // namespace automodel::comm

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

// Records every call and hands it to `inner`; without one, the call succeeds at once.
class RecordingCommunicator final : public Communicator {
 public:
  RecordingCommunicator(std::string name, int rank, int size, Recorder recorder)
      : Communicator(std::move(name), rank, size), recorder_(std::move(recorder)) {}
  RecordingCommunicator(std::unique_ptr<Communicator> inner, Recorder recorder)
      : Communicator(inner->name(), inner->rank(), inner->size()),
        inner_(std::move(inner)),
        recorder_(std::move(recorder)) {}

  bool reaches(Device device) const override { return inner_ == nullptr || inner_->reaches(device); }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    AM_CHECK(inner_ != nullptr, Fault::kBug,
             "split '{}': a plan cannot ask other ranks for their colors; name the members with group()", name);
    return Communicator::split(color, key, std::move(name));
  }

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    if (inner_) return make_recording(inner_->group(members, std::move(name)), recorder_);
    for (size_t i = 0; i < members.size(); ++i) {
      if (members[i] == rank())
        return make_planning(static_cast<int>(i), static_cast<int>(members.size()), recorder_, name);
    }
    fail(Fault::kBug, "group '{}' of '{}': rank {} is not among its members", name, this->name(), rank());
  }

  std::unique_ptr<Communicator> partition(std::span<const int> members, std::string name) override {
    if (inner_) return make_recording(inner_->partition(members, std::move(name)), recorder_);
    return group(members, std::move(name));
  }

  void barrier() override {
    record(Call::kBarrier, 0);
    if (inner_) inner_->barrier();
  }
  void set_places(std::function<std::string(int)> place_of) override {
    if (inner_) inner_->set_places(std::move(place_of));
  }
  void abort(std::string_view why) noexcept override {
    if (inner_) inner_->abort(why);
  }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override {
    record(Call::kAllReduce, data.bytes());
    return inner_ ? inner_->start_all_reduce(data, op) : Pending();
  }
  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    record(Call::kAllGather, out.bytes());
    return inner_ ? inner_->start_all_gather(out, in) : Pending();
  }
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    record(Call::kReduceScatter, in.bytes());
    return inner_ ? inner_->start_reduce_scatter(out, in, op) : Pending();
  }
  Pending do_broadcast(Buffer data, int root) override {
    record(Call::kBroadcast, data.bytes());
    return inner_ ? inner_->start_broadcast(data, root) : Pending();
  }
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override {
    int64_t total = 0;
    for (int r = 0; r < size(); ++r) total += r == rank() ? 0 : send_bytes[static_cast<size_t>(r)];
    record(Call::kAllToAll, total);
    return inner_ ? inner_->start_all_to_all(out, in, send_bytes, receive_bytes) : Pending();
  }
  Pending do_exchange(std::span<const Transfer> transfers) override {
    for (const Transfer& t : transfers) {
      const bool sends = t.direction == Transfer::Direction::kSend;
      record(sends ? Call::kSend : Call::kReceive, t.data.bytes(), t.peer);
    }
    return inner_ ? inner_->start_exchange(transfers) : Pending();
  }

 private:
  void record(Call call, int64_t bytes, int peer = -1) {
    if (recorder_) recorder_({call, name(), size(), bytes, peer});
  }

  std::unique_ptr<Communicator> inner_;
  Recorder recorder_;
};

}  // namespace

std::unique_ptr<Communicator> make_planning(int rank, int size, Recorder recorder, std::string name) {
  AM_CHECK(size >= 1 && rank >= 0 && rank < size, Fault::kBug, "planning: rank {} of {}", rank, size);
  return std::make_unique<RecordingCommunicator>(std::move(name), rank, size, std::move(recorder));
}

std::unique_ptr<Communicator> make_recording(std::unique_ptr<Communicator> inner, Recorder recorder) {
  return std::make_unique<RecordingCommunicator>(std::move(inner), std::move(recorder));
}

}  // namespace automodel::comm

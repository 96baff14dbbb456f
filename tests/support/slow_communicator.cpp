#include "support/slow_communicator.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

namespace automodel::test {
namespace {

using comm::Buffer;
using comm::ConstBuffer;
using comm::Pending;
using comm::Reduce;
using comm::Transfer;
using Clock = std::chrono::steady_clock;

using Time = Clock::time_point;

// The moments at which the ranks started an operation, on their way to each other.
struct Starts {
  explicit Starts(comm::Communicator* ranks) : own{Clock::now().time_since_epoch().count()} {
    if (ranks == nullptr) {
      all = own;
      return;
    }
    all.resize(static_cast<size_t>(ranks->size()));
    pending = ranks->start_all_gather(comm::buffer_of(all), comm::buffer_of(std::as_const(own)));
  }
  Time last() { return Time(Clock::duration(*std::max_element(all.begin(), all.end()))); }

  std::vector<int64_t> own, all;
  Pending pending;
};

class SlowOperation final : public comm::Operation {
 public:
  SlowOperation(std::unique_ptr<Starts> starts, Pending inner, Wire& wire, int64_t bytes)
      : starts_(std::move(starts)), inner_(std::move(inner)), wire_(wire) {
    const std::chrono::duration<double> seconds(static_cast<double>(bytes) * wire.seconds_per_byte);
    wire.total += seconds.count();
    wire.queue.push_back([this, length = std::chrono::duration_cast<Clock::duration>(seconds)] {
      starts_->pending.wait();
      end_ = wire_.free = std::max(wire_.free, starts_->last()) + length;
      known_ = true;
    });
  }

  void wait() override {
    inner_.wait();
    settle();
    const Time begin = Clock::now();
    if (begin >= end_) return;
    std::this_thread::sleep_until(end_);
    wire_.exposed += std::chrono::duration<double>(end_ - begin).count();
  }
  bool ready() override {
    if (!inner_.ready() || !starts_->pending.ready()) return false;
    settle();
    return Clock::now() >= end_;
  }
  void release(bool) override { delete this; }

 private:
  // Operations start in the same order on all ranks: those before this one have begun everywhere.
  void settle() {
    while (!known_) {
      wire_.queue.front()();
      wire_.queue.pop_front();
    }
  }

  std::unique_ptr<Starts> starts_;
  Pending inner_;
  Wire& wire_;
  bool known_ = false;
  Time end_;
};

class SlowCommunicator final : public comm::Communicator {
 public:
  SlowCommunicator(comm::Communicator& inner, Wire& wire)
      : Communicator(inner.name(), inner.rank(), inner.size()), inner_(inner), wire_(wire) {}
  SlowCommunicator(std::unique_ptr<comm::Communicator> own, Wire& wire) : SlowCommunicator(*own, wire) {
    own_ = std::move(own);
  }

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    return std::make_unique<SlowCommunicator>(inner_.group(members, std::move(name)), wire_);
  }
  void barrier() override { inner_.barrier(); }
  void abort(std::string_view why) noexcept override { inner_.abort(why); }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override {
    return slow(inner_.start_all_reduce(data, op), data.bytes());
  }
  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    return slow(inner_.start_all_gather(out, in), out.bytes());
  }
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    return slow(inner_.start_reduce_scatter(out, in, op), in.bytes());
  }
  Pending do_broadcast(Buffer data, int root) override {
    return slow(inner_.start_broadcast(data, root), data.bytes());
  }
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override {
    return slow(inner_.start_all_to_all(out, in, send_bytes, receive_bytes), in.bytes());
  }
  Pending do_exchange(std::span<const Transfer> transfers) override {
    int64_t bytes = 0;
    for (const Transfer& t : transfers) bytes += t.data.bytes();
    return Pending(
        new SlowOperation(std::make_unique<Starts>(nullptr), inner_.start_exchange(transfers), wire_, bytes));
  }

 private:
  Pending slow(Pending inner, int64_t bytes) {
    return Pending(new SlowOperation(std::make_unique<Starts>(&inner_), std::move(inner), wire_, bytes));
  }

  std::unique_ptr<comm::Communicator> own_;
  comm::Communicator& inner_;
  Wire& wire_;
};

}  // namespace

std::unique_ptr<comm::Communicator> make_slow(comm::Communicator& inner, Wire& wire) {
  return std::make_unique<SlowCommunicator>(inner, wire);
}

}  // namespace automodel::test

// A message goes through three hands: the sender offers it, the receiver, in a call, answers the offer, and the sender,
// in a call, then copies. One lock guards everything.
#include "support/rendezvous.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>

#include "core/error.h"

namespace automodel::test {
namespace {

using comm::Buffer;
using comm::ConstBuffer;
using comm::Pending;
using comm::Reduce;
using comm::Transfer;

struct Message {
  Transfer transfer;
  std::shared_ptr<Message> partner = nullptr;
  bool copied = false;
};

struct Fabric {
  std::chrono::milliseconds deadline;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<int, int, int>, std::deque<std::shared_ptr<Message>>> offers;  // (from, to, tag)
  std::vector<std::vector<std::shared_ptr<Message>>> in_flight;                      // of each rank
  bool aborted = false;

  // What a rank can do while it is in a call.
  void progress(int rank) {
    AM_CHECK(!aborted, Fault::kComm, "a peer failed");
    auto& mine = in_flight[static_cast<size_t>(rank)];
    bool moved = false;
    for (const auto& message : mine) {
      if (message->copied) continue;  // by its sender
      const Transfer& t = message->transfer;
      if (t.direction == Transfer::Direction::kReceive && !message->partner) {
        auto& offered = offers[{t.peer, rank, t.tag}];
        if (offered.empty()) continue;
        message->partner = offered.front();
        offered.front()->partner = message;
        offered.pop_front();
        moved = true;
      } else if (t.direction == Transfer::Direction::kSend && message->partner) {
        const Transfer& to = message->partner->transfer;
        AM_CHECK(to.data.bytes() == t.data.bytes(), Fault::kBug, "{} bytes sent, {} expected", t.data.bytes(),
                 to.data.bytes());
        std::memcpy(to.data.data, t.data.data, static_cast<size_t>(t.data.bytes()));
        message->copied = message->partner->copied = true;
        message->partner->partner = nullptr;
        message->partner = nullptr;
        moved = true;
      }
    }
    std::erase_if(mine, [](const auto& message) { return message->copied; });
    if (moved) changed.notify_all();
  }
};

class RendezvousOperation final : public comm::Operation {
 public:
  RendezvousOperation(std::shared_ptr<Fabric> fabric, int rank, std::vector<std::shared_ptr<Message>> messages)
      : fabric_(std::move(fabric)), rank_(rank), messages_(std::move(messages)) {}

  void wait() override {
    const auto until = std::chrono::steady_clock::now() + fabric_->deadline;
    std::unique_lock lock(fabric_->mutex);
    for (fabric_->progress(rank_); !done(); fabric_->progress(rank_)) {
      const auto in_time = fabric_->changed.wait_until(lock, until);
      AM_CHECK(in_time == std::cv_status::no_timeout, Fault::kComm, "rank {} waited too long for tag {} of rank {}",
               rank_, messages_[0]->transfer.tag, messages_[0]->transfer.peer);
    }
  }
  bool ready() override {
    std::lock_guard lock(fabric_->mutex);
    fabric_->progress(rank_);
    return done();
  }
  void release(bool finished) override {
    if (!finished) {  // nobody may copy from or to its buffers any more
      std::lock_guard lock(fabric_->mutex);
      fabric_->aborted = true;
      fabric_->changed.notify_all();
    }
    delete this;
  }

 private:
  bool done() const {
    return std::all_of(messages_.begin(), messages_.end(), [](const auto& message) { return message->copied; });
  }

  std::shared_ptr<Fabric> fabric_;
  int rank_;
  std::vector<std::shared_ptr<Message>> messages_;
};

class RendezvousCommunicator final : public comm::Communicator {
 public:
  RendezvousCommunicator(int rank, int size, std::shared_ptr<Fabric> fabric)
      : Communicator("rendezvous", rank, size), fabric_(std::move(fabric)) {}

  std::unique_ptr<Communicator> group(std::span<const int>, std::string) override { refuse(); }
  void barrier() override { refuse(); }
  void abort(std::string_view) noexcept override {
    std::lock_guard lock(fabric_->mutex);
    fabric_->aborted = true;
    fabric_->changed.notify_all();
  }

 protected:
  Pending do_all_reduce(Buffer, Reduce) override { refuse(); }
  Pending do_all_gather(Buffer, ConstBuffer) override { refuse(); }
  Pending do_reduce_scatter(Buffer, ConstBuffer, Reduce) override { refuse(); }
  Pending do_broadcast(Buffer, int) override { refuse(); }
  Pending do_all_to_all(Buffer, ConstBuffer, std::span<const int64_t>, std::span<const int64_t>) override { refuse(); }

  Pending do_exchange(std::span<const Transfer> transfers) override {
    std::lock_guard lock(fabric_->mutex);
    std::vector<std::shared_ptr<Message>> messages;
    for (const Transfer& t : transfers) {
      auto message = std::make_shared<Message>(Message{t});
      messages.push_back(message);
      fabric_->in_flight[static_cast<size_t>(rank())].push_back(message);
      if (t.direction == Transfer::Direction::kSend) fabric_->offers[{rank(), t.peer, t.tag}].push_back(message);
    }
    fabric_->changed.notify_all();
    return Pending(new RendezvousOperation(fabric_, rank(), std::move(messages)));
  }

 private:
  [[noreturn]] static void refuse() { fail(Fault::kBug, "rendezvous: exchanges only"); }

  std::shared_ptr<Fabric> fabric_;
};

}  // namespace

std::vector<std::unique_ptr<comm::Communicator>> make_rendezvous(int n, std::chrono::milliseconds deadline) {
  auto fabric = std::make_shared<Fabric>();
  fabric->deadline = deadline;
  fabric->in_flight.resize(static_cast<size_t>(n));
  std::vector<std::unique_ptr<comm::Communicator>> ranks;
  for (int r = 0; r < n; ++r) ranks.push_back(std::make_unique<RendezvousCommunicator>(r, n, fabric));
  return ranks;
}

}  // namespace automodel::test

#include "comm/single.h"

#include <cstring>
#include <deque>
#include <map>

#include "core/error.h"

namespace automodel::comm {
namespace {

void copy(Buffer out, ConstBuffer in) {
  if (out.data != in.data && in.count > 0) std::memmove(out.data, in.data, static_cast<size_t>(in.bytes()));
}

class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(std::string name) : Communicator(std::move(name), 0, 1) {}

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    AM_CHECK(members.size() == 1 && members[0] == 0, Fault::kBug, "group '{}': one rank cannot form a group of {}",
             name, members.size());
    return make_single(std::move(name));
  }
  void barrier() override {}
  void abort(std::string_view) noexcept override {}

 protected:
  Pending do_all_reduce(Buffer, Reduce) override { return {}; }
  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    copy(out, in);
    return {};
  }
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce) override {
    copy(out, in);
    return {};
  }
  Pending do_broadcast(Buffer, int) override { return {}; }
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t>) override {
    copy(out, {in.data, send_bytes[0], DType::kU8});
    return {};
  }

  // Messages to myself wait in a box; a receive needs its message to be there.
  Pending do_exchange(std::span<const Transfer> transfers) override {
    for (const Transfer& t : transfers) {
      if (t.direction != Transfer::Direction::kSend) continue;
      std::string& message = box_[t.tag].emplace_back(static_cast<size_t>(t.data.bytes()), '\0');
      copy({message.data(), t.data.bytes(), DType::kU8}, {t.data.data, t.data.bytes(), DType::kU8});
    }
    for (const Transfer& t : transfers) {
      if (t.direction == Transfer::Direction::kSend) continue;
      auto& messages = box_[t.tag];
      AM_CHECK(!messages.empty(), Fault::kComm, "receive on '{}': rank 0 waits for a message from itself, tag {}",
               name(), t.tag);
      AM_CHECK(static_cast<int64_t>(messages.front().size()) == t.data.bytes(), Fault::kBug,
               "receive on '{}': expects {} bytes, the message has {}", name(), t.data.bytes(),
               messages.front().size());
      copy(t.data, {messages.front().data(), t.data.bytes(), DType::kU8});
      messages.pop_front();
    }
    return {};
  }

 private:
  std::map<int, std::deque<std::string>> box_;
};

}  // namespace

std::unique_ptr<Communicator> make_single(std::string name) {
  return std::make_unique<SingleCommunicator>(std::move(name));
}

}  // namespace automodel::comm

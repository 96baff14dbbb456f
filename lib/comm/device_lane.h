// A lane carries the messages of one tag from one rank to another, in order, on a channel of those two. Private to
// device_ranks.cpp.
//
// The receiver makes the channel's id and sends it by way of the hosts; both join; both launch what is queued; each
// tells the other so by way of the hosts. From then on messages are launched as they are started. As long as it opens,
// a lane moves on in the calls of its rank that wait or ask.
//
// Why wait() waits until the peer has launched too: a host that goes on while its half is not launched might next wait
// for its device, and its device for a peer's that needs this very message. Whoever knows that both halves are launched
// may leave the rest to the devices.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/device_link.h"
#include "comm/device_watch.h"
#include "comm/patience.h"
#include "core/error.h"

namespace automodel::comm {

class Lane;

// What the communicators of one rank share.
struct DeviceContext {
  DeviceContext(Communicator& below, DeviceLink& link, const DeviceRanksOptions& options)
      : link(link), deadline(options.deadline), watch(below, options) {}

  DeviceLink& link;
  const std::chrono::milliseconds deadline;
  DeviceWatch watch;
  std::vector<Lane*> busy;  // with something that is not launched, or not yet open

  // Moves lanes on. Throws as check_alive.
  void progress();
  // After a poll in vain, which `what` was waited for. Throws Error(kComm) after the deadline.
  void pause(Patience& patience, const std::string& what);
  // Something of a channel: when it throws Error(kComm), this ends the run with the rank's name.
  template <class F>
  auto attempt(F&& f) -> decltype(f()) {
    try {
      return f();
    } catch (const Error& error) {
      if (error.fault() == Fault::kComm) watch.fail(fmt::format("{} failed: {}", watch.me(), error.what()));
      watch.check_alive();
      throw;
    }
  }
  bool settled(DeviceChannel& channel) {
    return attempt([&] { return channel.settled(); });
  }
  void settle(DeviceChannel& channel, const std::string& what);
  // A host's operation, while lanes move on.
  void wait(Pending& host);
};

// One message, shared by the lane and whoever waits for it.
struct LaneMessage {
  Transfer transfer;
  std::shared_ptr<StreamMark> start;
  std::shared_ptr<StreamMark> done{};  // null: not launched yet
};

class Lane {
 public:
  struct Place {
    int peer = 0;
    int tag = 0;
    bool sends = false;
    auto operator<=>(const Place&) const = default;
  };

  // `control` is a communicator of the hosts, of the same ranks, for lanes in this direction alone.
  Lane(DeviceContext& context, Communicator& control, const Place& place, std::shared_ptr<const std::string> where);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void start(std::shared_ptr<LaneMessage> message);
  void progress();
  // Both halves of the first message are launched.
  bool open() const { return stage_ == Stage::kOpen; }
  bool idle() const { return open() && queue_.empty(); }

 private:
  enum class Stage { kNaming, kJoining, kLaunching, kMeeting, kOpen };

  void join();
  void launch();
  void greet();

  DeviceContext& context_;
  Communicator& control_;
  const Place place_;
  std::shared_ptr<const std::string> where_;
  Stage stage_ = Stage::kNaming;
  DeviceLink::Id id_{};
  std::array<std::byte, 2> greetings_{};  // mine, the peer's
  std::shared_ptr<DeviceChannel> channel_;
  std::deque<std::shared_ptr<LaneMessage>> queue_;
  bool front_called_ = false;
  Pending naming_, greeting_;  // before what they write
};

}  // namespace automodel::comm

#include "comm/device_ranks.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "comm/device_lane.h"
#include "comm/device_watch.h"
#include "core/error.h"

namespace automodel::comm {
namespace {

using Context = std::shared_ptr<DeviceContext>;

// Of host memory; lanes move on meanwhile, as a peer may be waiting for one.
class HostOperation final : public Operation {
 public:
  HostOperation(Context context, Pending host) : context_(std::move(context)), host_(std::move(host)) {}
  void wait() override {
    context_->watch.check_alive();
    context_->wait(host_);
  }
  bool ready() override {
    context_->progress();
    return host_.ready();
  }
  void release(bool) override { delete this; }

 private:
  Context context_;
  Pending host_;
};

class ChannelOperation final : public Operation {
 public:
  ChannelOperation(Context context, std::shared_ptr<StreamMark> done)
      : context_(std::move(context)), done_(std::move(done)) {}
  void wait() override {
    context_->watch.check_alive();
    done_->hold_compute();
  }
  bool ready() override {
    context_->progress();
    return done_->passed();
  }
  void release(bool) override { delete this; }

 private:
  Context context_;
  std::shared_ptr<StreamMark> done_;
};

class LaneOperation final : public Operation {
 public:
  struct Part {
    Lane* lane;
    std::shared_ptr<LaneMessage> message;
  };
  LaneOperation(Context context, std::vector<Part> parts, Pending to_itself, std::shared_ptr<const std::string> where)
      : context_(std::move(context)),
        parts_(std::move(parts)),
        to_itself_(std::move(to_itself)),
        where_(std::move(where)) {}
  void wait() override {
    context_->progress();
    Patience patience(0, context_->deadline);
    while (const Part* missing = unlaunched()) {
      context_->pause(patience, described(missing->message->transfer));
      context_->progress();
    }
    for (const Part& part : parts_) part.message->done->hold_compute();
    context_->wait(to_itself_);
  }
  bool ready() override {
    context_->progress();
    return unlaunched() == nullptr && to_itself_.ready() &&
           std::ranges::all_of(parts_, [](const Part& part) { return part.message->done->passed(); });
  }
  void release(bool) override { delete this; }

 private:
  const Part* unlaunched() const {
    for (const Part& part : parts_)
      if (part.message->done == nullptr || !part.lane->open()) return &part;
    return nullptr;
  }
  std::string described(const Transfer& t) const {
    const bool sends = t.direction == Transfer::Direction::kSend;
    return fmt::format("rank {} to start its half of a {} of {} bytes, tag {}, {}", t.peer, sends ? "send" : "receive",
                       t.data.bytes(), t.tag, *where_);
  }

  Context context_;
  std::vector<Part> parts_;
  Pending to_itself_;
  std::shared_ptr<const std::string> where_;
};

class DeviceRanks final : public Communicator {
 public:
  DeviceRanks(Context context, Communicator& below, std::shared_ptr<DeviceChannel> channel)
      : Communicator(below.name(), below.rank(), below.size()),
        context_(std::move(context)),
        below_(below),
        channel_(std::move(channel)),
        where_(std::make_shared<const std::string>(fmt::format("on '{}' (rank {} of {})", name(), rank(), size()))) {
    context_->watch.add(channel_);
    context_->settle(*channel_, fmt::format("the ranks to connect {}", *where_));
    if (size() == 1) return;
    std::vector<int> all;
    for (int r = 0; r < size(); ++r) all.push_back(r);
    for (auto& control : controls_) control = below_.group(all, name() + " lanes");
  }
  DeviceRanks(Context context, std::unique_ptr<Communicator> below, std::shared_ptr<DeviceChannel> channel)
      : DeviceRanks(std::move(context), *below, std::move(channel)) {
    own_ = std::move(below);
  }
  ~DeviceRanks() override {
    lanes_.clear();
    context_->watch.remove(channel_.get());
  }

  bool reaches(Device device) const override { return device == context_->link.device() || below_.reaches(device); }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    context_->watch.check_alive();
    std::unique_ptr<Communicator> members = below_.split(color, key, name);
    return wrap(std::move(members), split_channel(color, members ? members->rank() : 0, name));
  }

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    context_->watch.check_alive();
    std::unique_ptr<Communicator> below = below_.group(members, name);
    if (below->size() == 1) return below;
    DeviceLink::Id id{};
    if (below->rank() == 0) id = context_->link.make_id();
    Pending sent = below->start_broadcast({id.data(), static_cast<int64_t>(id.size()), DType::kU8}, 0);
    context_->wait(sent);
    const int rank = below->rank(), size = below->size();
    return wrap(std::move(below), context_->attempt([&] { return context_->link.join(id, rank, size, name); }));
  }

  std::unique_ptr<Communicator> partition(std::span<const int> members, std::string name) override {
    context_->watch.check_alive();
    std::unique_ptr<Communicator> below = below_.group(members, name);
    if (below->size() == 1) return below;
    const int rank = below->rank();
    return wrap(std::move(below), split_channel(*std::ranges::min_element(members), rank, name));
  }

  void barrier() override {
    uint8_t nothing = 0;
    all_reduce({&nothing, 1, DType::kU8}, Reduce::kMax);
  }
  void set_places(std::function<std::string(int)> place_of) override {
    context_->watch.set_places(place_of);
    below_.set_places(std::move(place_of));
  }
  void abort(std::string_view why) noexcept override {
    context_->watch.fail(fmt::format("rank {} failed: {}", below_.rank(), why));
    below_.abort(why);
  }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override {
    if (!mine(data)) return hosts(below_.start_all_reduce(data, op));
    return launch("all_reduce", data, [&] { channel_->all_reduce(data, op); });
  }
  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    if (!mine(out)) return hosts(below_.start_all_gather(out, in));
    return launch("all_gather", in, [&] { channel_->all_gather(out, in); });
  }
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    if (!mine(out)) return hosts(below_.start_reduce_scatter(out, in, op));
    return launch("reduce_scatter", out, [&] { channel_->reduce_scatter(out, in, op); });
  }
  Pending do_broadcast(Buffer data, int root) override {
    if (!mine(data)) return hosts(below_.start_broadcast(data, root));
    return launch("broadcast", data, [&] { channel_->broadcast(data, root); });
  }
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override;
  Pending do_exchange(std::span<const Transfer> transfers) override;

 private:
  bool mine(ConstBuffer buffer) const { return buffer.device == context_->link.device(); }
  Pending hosts(Pending host) { return Pending(new HostOperation(context_, std::move(host))); }

  std::shared_ptr<DeviceChannel> split_channel(int color, int key, const std::string& name) {
    auto made = context_->attempt([&] { return channel_->split(color, key, name); });
    // The parent's own part of the split; ranks without a color have nothing else to wait for.
    context_->settle(*channel_, fmt::format("all ranks to split {}", *where_));
    return made;
  }

  std::unique_ptr<Communicator> wrap(std::unique_ptr<Communicator> below, std::shared_ptr<DeviceChannel> channel) {
    if (below == nullptr) return nullptr;
    return std::make_unique<DeviceRanks>(context_, std::move(below), std::move(channel));
  }

  template <class F>
  Pending launch(const char* call, ConstBuffer data, F&& f) {
    context_->progress();
    context_->attempt([&] {
      channel_->after(*context_->link.mark_compute());
      f();
    });
    CallText text{call, data.count, data.dtype, where_};
    if (!context_->settled(*channel_)) context_->settle(*channel_, "the ranks to connect for " + text.text());
    std::shared_ptr<StreamMark> done = channel_->mark();
    context_->watch.launched(channel_.get(), std::move(text), done);
    return Pending(new ChannelOperation(context_, std::move(done)));
  }

  Lane& lane(const Transfer& t) {
    const Lane::Place place{t.peer, t.tag, t.direction == Transfer::Direction::kSend};
    std::unique_ptr<Lane>& slot = lanes_[place];
    const bool up = place.sends == (rank() < t.peer);
    if (!slot) slot = std::make_unique<Lane>(*context_, *controls_[up ? 0 : 1], place, where_);
    return *slot;
  }
  Pending by_lanes(std::span<const Transfer> transfers);

  Context context_;
  std::unique_ptr<Communicator> own_;
  Communicator& below_;
  std::shared_ptr<DeviceChannel> channel_;
  std::shared_ptr<const std::string> where_;
  std::unique_ptr<Communicator> controls_[2];  // of the hosts: for lanes to a higher rank, to a lower one
  std::map<Lane::Place, std::unique_ptr<Lane>> lanes_;
};

Pending DeviceRanks::do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                   std::span<const int64_t> receive_bytes) {
  if (!mine(out) || !mine(in)) return hosts(below_.start_all_to_all(out, in, send_bytes, receive_bytes));
  std::vector<Transfer> transfers;
  auto* to = static_cast<std::byte*>(out.data);
  const auto* from = static_cast<const std::byte*>(in.data);
  for (int r = 0; r < size(); ++r) {
    const int64_t sent = send_bytes[static_cast<size_t>(r)], received = receive_bytes[static_cast<size_t>(r)];
    if (sent > 0) transfers.push_back(Transfer::send(r, {from, sent, DType::kU8, in.device}));
    if (received > 0) transfers.push_back(Transfer::receive(r, {to, received, DType::kU8, out.device}));
    from += sent;
    to += received;
  }
  if (transfers.empty()) return {};
  return launch("all_to_all", in, [&] { channel_->exchange(transfers); });
}

Pending DeviceRanks::do_exchange(std::span<const Transfer> transfers) {
  bool sends = false, receives = false;
  int64_t of_device = 0;
  for (const Transfer& t : transfers) {
    (t.direction == Transfer::Direction::kSend ? sends : receives) = true;
    of_device += mine(t.data) ? 1 : 0;
  }
  if (of_device == 0) return hosts(below_.start_exchange(transfers));
  AM_CHECK(of_device == static_cast<int64_t>(transfers.size()), Fault::kBug,
           "exchange on '{}': {} of {} buffers are of the device; all or none may be", name(), of_device,
           transfers.size());
  if (!sends || !receives) return by_lanes(transfers);
  std::vector<Transfer> some;  // both sides know what is empty
  std::ranges::copy_if(transfers, std::back_inserter(some), [](const Transfer& t) { return t.data.bytes() > 0; });
  if (some.empty()) return {};
  return launch("exchange", some.front().data, [&] { channel_->exchange(some); });
}

Pending DeviceRanks::by_lanes(std::span<const Transfer> transfers) {
  context_->progress();
  std::shared_ptr<StreamMark> start = context_->link.mark_compute();
  std::vector<LaneOperation::Part> parts;
  std::vector<Transfer> to_itself;
  for (const Transfer& t : transfers) {
    if (t.peer == rank()) {
      to_itself.push_back(t);
    } else if (t.data.bytes() > 0) {
      parts.push_back({&lane(t), std::make_shared<LaneMessage>(LaneMessage{t, start})});
      parts.back().lane->start(parts.back().message);
    }
  }
  Pending host;
  if (!to_itself.empty()) host = below_.start_exchange(to_itself);
  return Pending(new LaneOperation(context_, std::move(parts), std::move(host), where_));
}

}  // namespace

std::unique_ptr<Communicator> make_device_ranks(Communicator& below, DeviceLink& link,
                                                const DeviceRanksOptions& options) {
  auto context = std::make_shared<DeviceContext>(below, link, options);
  DeviceLink::Id id{};
  if (below.rank() == 0) id = link.make_id();
  below.broadcast({id.data(), static_cast<int64_t>(id.size()), DType::kU8}, 0);
  auto channel = link.join(id, below.rank(), below.size(), below.name());
  return std::make_unique<DeviceRanks>(std::move(context), below, std::move(channel));
}

}  // namespace automodel::comm

#include "comm/device_lane.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace automodel::comm {

void DeviceContext::progress() {
  watch.check_alive();
  std::vector<Lane*> now = busy;
  for (Lane* lane : now) lane->progress();
  std::erase_if(busy, [](const Lane* lane) { return lane->idle(); });
}

void DeviceContext::pause(Patience& patience, const std::string& what) {
  watch.check_alive();
  if (patience.pause()) return;
  watch.fail(fmt::format("{} waited {} ms for {}; did a peer leave or call something else?", watch.me(),
                         patience.waited().count(), what));
  watch.check_alive();
}

void DeviceContext::settle(DeviceChannel& channel, const std::string& what) {
  if (settled(channel)) return;
  Patience patience(0, deadline);
  while (!settled(channel)) {
    progress();
    pause(patience, what);
  }
}

void DeviceContext::wait(Pending& host) {
  Patience patience(0, std::chrono::hours(24 * 365));  // the host's own deadline counts
  while (!busy.empty() && !host.ready()) {
    progress();
    patience.pause();
  }
  host.wait();
}

Lane::Lane(DeviceContext& context, Communicator& control, const Place& place, std::shared_ptr<const std::string> where)
    : context_(context), control_(control), place_(place), where_(std::move(where)) {
  const Buffer id{id_.data(), static_cast<int64_t>(id_.size()), DType::kU8};
  if (!place.sends) id_ = context.link.make_id();
  const Transfer transfer =
      place.sends ? Transfer::receive(place.peer, id, place.tag) : Transfer::send(place.peer, id, place.tag);
  naming_ = control.start_exchange({&transfer, 1});
  if (!place.sends) join();
}

Lane::~Lane() {
  std::erase(context_.busy, this);
  if (channel_ == nullptr) return;
  // A lane that the peer never used has nobody to take leave of.
  if (!open()) channel_->abort();
  context_.watch.remove(channel_.get());
}

void Lane::join() {
  channel_ = context_.attempt(
      [this] { return context_.link.join(id_, place_.sends ? 1 : 0, 2, fmt::format("lane {}", place_.tag)); });
  context_.watch.add(channel_);
  stage_ = Stage::kJoining;
}

void Lane::start(std::shared_ptr<LaneMessage> message) {
  queue_.push_back(std::move(message));
  progress();
  if (!idle() && std::ranges::find(context_.busy, this) == context_.busy.end()) context_.busy.push_back(this);
}

void Lane::launch() {
  while (!queue_.empty()) {
    LaneMessage& front = *queue_.front();
    if (!front_called_) {
      Transfer transfer = front.transfer;
      transfer.peer = place_.sends ? 0 : 1;
      context_.attempt([&] {
        channel_->after(*front.start);
        channel_->exchange({&transfer, 1});
      });
      front_called_ = true;
    }
    if (!context_.settled(*channel_)) return;
    front_called_ = false;
    front.done = channel_->mark();
    context_.watch.launched(
        channel_.get(),
        {place_.sends ? "send" : "receive", front.transfer.data.count, front.transfer.data.dtype, where_}, front.done);
    queue_.pop_front();
  }
}

void Lane::greet() {
  const Transfer both[] = {Transfer::send(place_.peer, {&greetings_[0], 1, DType::kU8}, place_.tag),
                           Transfer::receive(place_.peer, {&greetings_[1], 1, DType::kU8}, place_.tag)};
  greeting_ = control_.start_exchange(both);
}

void Lane::progress() {
  if (stage_ == Stage::kNaming && naming_.ready()) {
    naming_.wait();
    join();
  }
  if (stage_ == Stage::kJoining && context_.settled(*channel_)) stage_ = Stage::kLaunching;
  if (stage_ >= Stage::kLaunching) launch();
  if (stage_ == Stage::kLaunching && queue_.empty()) {
    naming_.wait();  // the peer has joined, so it has the id
    greet();
    stage_ = Stage::kMeeting;
  }
  if (stage_ == Stage::kMeeting && greeting_.ready()) {
    greeting_.wait();
    stage_ = Stage::kOpen;
  }
}

}  // namespace automodel::comm

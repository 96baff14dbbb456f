// The calls of a channel end in order, so the first one tells of all: its time runs from when it was launched, or from
// when the one before it was seen to end.
#include "comm/device_watch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace automodel::comm {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

std::string CallText::text() const {
  return fmt::format("{} of {} x {} {}", call, count, automodel::name_of(dtype), *where);
}

DeviceWatch::DeviceWatch(Communicator& below, const DeviceRanksOptions& options)
    : below_(below), options_(options), place_(options.place), thread_([this] { run(); }) {}

DeviceWatch::~DeviceWatch() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DeviceWatch::add(std::shared_ptr<DeviceChannel> channel) {
  std::lock_guard lock(mutex_);
  const DeviceChannel* key = channel.get();
  channels_[key].channel = std::move(channel);
}

void DeviceWatch::remove(const DeviceChannel* channel) {
  std::shared_ptr<DeviceChannel> kept;
  bool failed = false;
  {
    std::lock_guard lock(mutex_);
    auto found = channels_.find(channel);
    if (found == channels_.end()) return;
    kept = std::move(found->second.channel);
    channels_.erase(found);
    failed = failed_;
  }
  if (failed) kept->abort();
}

void DeviceWatch::launched(const DeviceChannel* channel, CallText call, std::shared_ptr<StreamMark> done) {
  std::lock_guard lock(mutex_);
  channels_.at(channel).flights.push_back({std::move(call), std::move(done), Clock::now()});
}

void DeviceWatch::check_alive() {
  std::lock_guard lock(mutex_);
  if (!failed_) return;
  noticed_ = true;
  changed_.notify_all();
  throw Error(Fault::kComm, why_);
}

void DeviceWatch::fail(std::string why) noexcept {
  std::vector<std::shared_ptr<DeviceChannel>> all;
  {
    std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    why_ = std::move(why);
    for (auto& [key, watched] : channels_) all.push_back(watched.channel);
  }
  for (const auto& channel : all) channel->abort();
}

std::string DeviceWatch::me() const {
  std::lock_guard lock(mutex_);
  return fmt::format("rank {}{}", below_.rank(), place_.empty() ? "" : " [" + place_ + "]");
}

void DeviceWatch::set_places(std::function<std::string(int)> place_of) {
  std::string place = place_of ? place_of(below_.rank()) : "";
  std::lock_guard lock(mutex_);
  place_ = std::move(place);
}

std::string DeviceWatch::look() {
  const Clock::time_point now = Clock::now();
  for (auto& [key, watched] : channels_) {
    std::deque<Flight>& flights = watched.flights;
    while (!flights.empty() && flights.front().done->passed()) {
      flights.pop_front();
      if (!flights.empty()) flights.front().since = std::max(flights.front().since, now);
    }
    std::string last = flights.empty() ? "" : flights.front().call.text();
    if (std::string trouble = watched.channel->trouble(); !trouble.empty())
      return fmt::format("failed{}{}: {}", last.empty() ? "" : " in ", last, trouble);
    if (last.empty() || now - flights.front().since <= options_.deadline) continue;
    return fmt::format("waited {} ms for {} between devices; did a peer leave or call something else?",
                       duration_cast<milliseconds>(now - flights.front().since).count(), last);
  }
  return "";
}

void DeviceWatch::end_unless_noticed(std::unique_lock<std::mutex>& lock) {
  if (changed_.wait_for(lock, options_.grace, [this] { return noticed_ || stopping_; })) return;
  std::string why = why_;
  lock.unlock();
  below_.abort(why);
  lock.lock();
}

void DeviceWatch::run() {
  const milliseconds pause = std::clamp(options_.deadline / 20, milliseconds(2), milliseconds(500));
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, pause, [this] { return stopping_; })) {
    if (failed_) {
      end_unless_noticed(lock);
      return;
    }
    std::string wrong = look();
    if (wrong.empty()) continue;
    lock.unlock();
    fail(fmt::format("{} {}", me(), wrong));
    lock.lock();
  }
}

}  // namespace automodel::comm

#include "support/thread_link.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "comm/threads.h"
#include "core/error.h"
#include "support/guarded_device.h"

namespace automodel::test {

using comm::Buffer;
using comm::Communicator;
using comm::ConstBuffer;
using comm::Reduce;
using comm::Transfer;

namespace {

constexpr int kPolls = 3;  // that connecting takes

// Ranks that meet under one name, each with a place among them.
struct Meeting {
  struct Place {
    int color = 0, key = 0;
  };
  std::map<int, Place> come;
  std::map<int, std::vector<std::unique_ptr<Communicator>>> ranks;  // by color, once all have come
};

}  // namespace

struct ThreadNetwork::State {
  mutable std::mutex mutex;
  int64_t ids = 0;
  std::map<std::string, Meeting> meetings;
  std::map<int, std::vector<std::string>> calls;
  std::map<int, std::string> troubles;
  std::atomic<int> channels{0};

  void tell(int rank, std::string call) {
    std::lock_guard lock(mutex);
    calls[rank].push_back(std::move(call));
  }
  void come(const std::string& name, int rank, int color, int key) {
    std::lock_guard lock(mutex);
    AM_CHECK(meetings[name].come.try_emplace(rank, Meeting::Place{color, key}).second, Fault::kBug,
             "rank {} comes twice to {}", rank, name);
  }
  // The communicator of the rank, once all `size` have come.
  std::unique_ptr<Communicator> connect(const std::string& name, int rank, int size) {
    std::lock_guard lock(mutex);
    Meeting& meeting = meetings[name];
    if (static_cast<int>(meeting.come.size()) < size) return nullptr;
    const int color = meeting.come.at(rank).color;
    std::vector<std::pair<int, int>> order;
    for (const auto& [r, place] : meeting.come)
      if (place.color == color) order.emplace_back(place.key, r);
    std::sort(order.begin(), order.end());
    auto& made = meeting.ranks[color];
    if (made.empty()) made = comm::make_threads(static_cast<int>(order.size()));
    for (size_t i = 0; i < order.size(); ++i)
      if (order[i].second == rank) return std::move(made[i]);
    return nullptr;
  }
};

namespace {

using State = std::shared_ptr<ThreadNetwork::State>;

class Mark final : public comm::StreamMark {
 public:
  bool passed() override {
    std::lock_guard lock(mutex_);
    return passed_;
  }
  // The compute stream is the rank's thread itself.
  void hold_compute() override { wait(); }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return passed_; });
  }
  void pass() {
    {
      std::lock_guard lock(mutex_);
      passed_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool passed_ = false;
};

// A copy of device memory, of the host.
class Copy {
 public:
  explicit Copy(ConstBuffer device) : bytes_(static_cast<size_t>(device.bytes())), device_(device) {
    read_guarded(bytes_.data(), device.data, bytes_.size());
  }
  Buffer buffer() { return {bytes_.data(), device_.count, device_.dtype}; }
  void write_to(void* device) { write_guarded(device, bytes_.data(), bytes_.size()); }

 private:
  std::vector<std::byte> bytes_;
  ConstBuffer device_;
};

class Channel final : public comm::DeviceChannel {
 public:
  // Of `size` ranks that come to the meeting.
  struct Where {
    std::string meeting;
    int rank;
    int size;
    int color = 0;
  };
  Channel(State state, int owner, Where where, std::string name)
      : state_(std::move(state)), owner_(owner), where_(std::move(where)), name_(std::move(name)), thread_([this] {
          run();
        }) {
    ++state_->channels;
  }
  ~Channel() override {
    if (std::uncaught_exceptions() > 0) abort();
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    thread_.join();
    --state_->channels;
  }

  bool settled() override {
    std::unique_lock lock(mutex_);
    if (!aborted_ && !error_.empty()) throw Error(Fault::kComm, error_);
    if (aborted_ || (comm_ != nullptr && polls_ == 0)) return true;
    if (comm_ == nullptr) {
      comm_ = state_->connect(where_.meeting, where_.rank, where_.size);
      return false;
    }
    return --polls_ == 0;
  }

  std::shared_ptr<comm::DeviceChannel> split(int color, int key, const std::string& name) override {
    state_->tell(owner_, fmt::format("split '{}' {} {}", name, color, key));
    const std::string meeting = fmt::format("{}.{}/{}", where_.meeting, where_.color, splits_++);
    begin("split", false);
    state_->come(meeting, comm_->rank(), color, key);
    if (color < 0) return nullptr;
    return std::make_shared<Channel>(state_, owner_, Where{meeting, comm_->rank(), comm_->size(), color}, name);
  }

  void after(comm::StreamMark& mark) override {
    auto passed = [&mark] { return mark.passed(); };
    AM_CHECK(passed(), Fault::kBug, "the compute stream of the tests has always come to its end");
    ordered_ = true;
  }
  std::shared_ptr<comm::StreamMark> mark() override {
    check_settled("mark");
    auto made = std::make_shared<Mark>();
    push([made] { made->pass(); }, true);
    return made;
  }

  void all_reduce(Buffer data, Reduce op) override {
    begin("all_reduce");
    push([this, data, op] {
      Copy copy(data);
      comm_->all_reduce(copy.buffer(), op);
      copy.write_to(data.data);
    });
  }
  void all_gather(Buffer out, ConstBuffer in) override {
    begin("all_gather");
    push([this, out, in] {
      Copy from(in), to(out);
      comm_->all_gather(to.buffer(), from.buffer());
      to.write_to(out.data);
    });
  }
  void reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    begin("reduce_scatter");
    push([this, out, in, op] {
      Copy from(in), to(out);
      comm_->reduce_scatter(to.buffer(), from.buffer(), op);
      to.write_to(out.data);
    });
  }
  void broadcast(Buffer data, int root) override {
    begin("broadcast");
    push([this, data, root] {
      Copy copy(data);
      comm_->broadcast(copy.buffer(), root);
      copy.write_to(data.data);
    });
  }
  void exchange(std::span<const Transfer> transfers) override {
    begin(fmt::format("exchange of {}", transfers.size()));
    push([this, all = std::vector<Transfer>(transfers.begin(), transfers.end())] {
      std::deque<Copy> copies;
      std::vector<Transfer> here = all;
      for (Transfer& t : here) {
        AM_CHECK(t.data.bytes() > 0, Fault::kBug, "an empty message");
        t.data = copies.emplace_back(t.data).buffer();
        t.tag = 0;
      }
      comm_->exchange(here);
      for (size_t i = 0; i < all.size(); ++i)
        if (all[i].direction == Transfer::Direction::kReceive) copies[i].write_to(all[i].data.data);
      if (comm_->size() == 2) comm_->barrier();
    });
  }

  std::string trouble() noexcept override {
    {
      std::lock_guard lock(state_->mutex);
      auto found = state_->troubles.find(owner_);
      if (found != state_->troubles.end()) return found->second;
    }
    std::lock_guard lock(mutex_);
    return aborted_ ? "" : error_;
  }
  void abort() noexcept override {
    Communicator* comm = nullptr;
    {
      std::lock_guard lock(mutex_);
      aborted_ = true;
      comm = comm_.get();
    }
    if (comm != nullptr) comm->abort("a channel was aborted");
  }

 private:
  void check_settled(const char* what) {
    std::lock_guard lock(mutex_);
    AM_CHECK(aborted_ || (comm_ != nullptr && polls_ == 0), Fault::kBug, "{} on '{}', which is not settled", what,
             name_);
  }
  void begin(const std::string& call, bool of_memory = true) {
    check_settled(call.c_str());
    AM_CHECK(!of_memory || std::exchange(ordered_, false), Fault::kBug, "{} does not follow the compute stream", call);
    if (of_memory) state_->tell(owner_, fmt::format("{} '{}'", call, name_));
    std::lock_guard lock(mutex_);
    polls_ = connected_ ? 0 : kPolls;  // the first call connects the ranks once more
    connected_ = true;
  }
  void push(std::function<void()> work, bool always = false) {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back({std::move(work), always});
    }
    changed_.notify_all();
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      auto [work, always] = std::move(queue_.front());
      queue_.pop_front();
      if (!always && (aborted_ || !error_.empty())) continue;
      lock.unlock();
      std::string error;
      try {
        work();
      } catch (const std::exception& e) {
        error = e.what();
      }
      lock.lock();
      if (error_.empty()) error_ = error;
    }
  }

  struct Work {
    std::function<void()> work;
    bool always;
  };

  State state_;
  const int owner_;
  const Where where_;
  const std::string name_;
  std::unique_ptr<Communicator> comm_;
  int splits_ = 0, polls_ = kPolls;
  bool ordered_ = false, connected_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> queue_;
  std::string error_;
  bool closing_ = false, aborted_ = false;
  std::thread thread_;
};

class Link final : public comm::DeviceLink {
 public:
  Link(State state, int rank, int device) : state_(std::move(state)), rank_(rank), device_(device) {}
  Device device() const override { return {Device::Kind::kCuda, device_}; }
  Id make_id() override {
    std::lock_guard lock(state_->mutex);
    const int64_t number = ++state_->ids;
    Id id{};
    std::memcpy(id.data(), &number, sizeof(number));
    return id;
  }
  std::shared_ptr<comm::DeviceChannel> join(const Id& id, int rank, int size, const std::string& name) override {
    state_->tell(rank_, fmt::format("join '{}' {} of {}", name, rank, size));
    int64_t number = 0;
    std::memcpy(&number, id.data(), sizeof(number));
    const std::string meeting = std::to_string(number);
    state_->come(meeting, rank, 0, rank);
    return std::make_shared<Channel>(state_, rank_, Channel::Where{meeting, rank, size}, name);
  }
  std::shared_ptr<comm::StreamMark> mark_compute() override {
    auto mark = std::make_shared<Mark>();
    mark->pass();
    return mark;
  }

 private:
  State state_;
  int rank_, device_;
};

}  // namespace

ThreadNetwork::ThreadNetwork() : state_(std::make_shared<State>()) {}
ThreadNetwork::~ThreadNetwork() = default;

std::unique_ptr<comm::DeviceLink> ThreadNetwork::link(int rank, int device) {
  return std::make_unique<Link>(state_, rank, device);
}
std::vector<std::string> ThreadNetwork::calls(int rank) const {
  std::lock_guard lock(state_->mutex);
  auto found = state_->calls.find(rank);
  return found == state_->calls.end() ? std::vector<std::string>{} : found->second;
}
void ThreadNetwork::break_rank(int rank, std::string trouble) {
  std::lock_guard lock(state_->mutex);
  state_->troubles[rank] = std::move(trouble);
}
int ThreadNetwork::channels() const {
  return state_->channels;
}

}  // namespace automodel::test

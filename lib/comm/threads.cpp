// Every call has a number on its communicator; ranks meet at that number. A rank brings its contribution (a copy, so
// that nobody ever reads memory of a rank that has gone on or failed), and whoever waits takes what it needs once all
// have come. Nothing but the numbers orders the ranks, so operations may be waited for in any order. The waiting ranks
// share the work of an all_reduce slice by slice.
#include "comm/threads.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>

#include "comm/reduce.h"
#include "comm/thread_fabric.h"
#include "core/error.h"

namespace automodel::comm {
namespace {

using Clock = std::chrono::steady_clock;

Bytes copy_of(const void* data, int64_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  return bytes == 0 ? Bytes{} : Bytes(begin, begin + bytes);
}

class ThreadCommunicator;

class ThreadOperation final : public Operation {
 public:
  // `done` says whether the operation can finish, `take` finishes it; both run with the group locked, `take` may
  // unlock.
  using Take = std::function<void(std::unique_lock<std::mutex>&)>;
  ThreadOperation(ThreadCommunicator& owner, std::string what, std::function<bool()> done, Take take,
                  std::shared_ptr<const Meeting> meeting = nullptr)
      : owner_(owner),
        what_(std::move(what)),
        done_(std::move(done)),
        take_(std::move(take)),
        meeting_(std::move(meeting)) {}
  void wait() override;
  bool ready() override;
  void release(bool) override { delete this; }

 private:
  ThreadCommunicator& owner_;
  std::string what_;
  std::function<bool()> done_;
  Take take_;
  std::shared_ptr<const Meeting> meeting_;  // of a collective call
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::string name, int rank, int size, std::shared_ptr<Fabric> fabric, std::shared_ptr<Group> group,
                     int world_rank)
      : Communicator(std::move(name), rank, size),
        fabric_(std::move(fabric)),
        group_(std::move(group)),
        world_rank_(world_rank) {}

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override;
  void barrier() override {
    meet("barrier", {}, {}, [](Meeting&, std::unique_lock<std::mutex>&) {}).wait();
  }
  void abort(std::string_view why) noexcept override {
    fabric_->abort(fmt::format("rank {} failed: {}", world_rank_, why));
  }

  Group& shared() { return *group_; }
  void check_alive() {
    if (fabric_->aborted) fabric_->fail_aborted();
  }
  // `meeting` knows who is missing; it may be null.
  void wait_until(std::unique_lock<std::mutex>& lock, const std::string& what, const std::function<bool()>& done,
                  const Meeting* meeting = nullptr);

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override;
  Pending do_all_gather(Buffer out, ConstBuffer in) override;
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override;
  Pending do_broadcast(Buffer data, int root) override;
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override;
  Pending do_exchange(std::span<const Transfer> transfers) override;

 private:
  using Take = std::function<void(Meeting&, std::unique_lock<std::mutex>&)>;
  Pending meet(std::string call, Bytes contribution, std::vector<int64_t> counts, Take take);
  void sum_slices(Meeting& meeting, Buffer data, Reduce op, std::unique_lock<std::mutex>& lock);

  std::shared_ptr<Fabric> fabric_;
  std::shared_ptr<Group> group_;
  int world_rank_;
  int64_t calls_ = 0;
  std::map<std::vector<int>, int> groups_made_;
};

void ThreadOperation::wait() {
  std::unique_lock lock(owner_.shared().mutex);
  owner_.wait_until(lock, what_, done_, meeting_.get());
  take_(lock);
}

bool ThreadOperation::ready() {
  std::lock_guard lock(owner_.shared().mutex);
  owner_.check_alive();
  return done_();
}

void ThreadCommunicator::wait_until(std::unique_lock<std::mutex>& lock, const std::string& what,
                                    const std::function<bool()>& done, const Meeting* meeting) {
  const bool in_time =
      group_->changed.wait_until(lock, Clock::now() + fabric_->deadline, [&] { return fabric_->aborted || done(); });
  if (!in_time) {
    const std::string why = fmt::format(
        "rank {} waited {} ms for {} on '{}' (rank {} of {}){}; did a peer leave or call something else?", world_rank_,
        fabric_->deadline.count(), what, name(), rank(), size(), meeting == nullptr ? "" : meeting->missing());
    lock.unlock();
    fabric_->abort(why);
    lock.lock();
  }
  check_alive();
}

Pending ThreadCommunicator::meet(std::string call, Bytes contribution, std::vector<int64_t> counts, Take take) {
  check_alive();
  const int64_t number = calls_++;
  std::unique_lock lock(group_->mutex);
  auto& slot = group_->meetings[number];
  if (!slot) {
    slot = std::make_shared<Meeting>();
    slot->call = call;
    slot->first_rank = rank();
    slot->here.resize(static_cast<size_t>(size()));
    slot->contributions.resize(static_cast<size_t>(size()));
    slot->counts.resize(static_cast<size_t>(size()));
  }
  std::shared_ptr<Meeting> meeting = slot;
  if (meeting->call != call) {
    const std::string why = fmt::format("call {} on '{}': rank {} calls {}, rank {} calls {}", number, name(),
                                        meeting->first_rank, meeting->call, rank(), call);
    lock.unlock();
    fabric_->abort(why);
    fabric_->fail_aborted();
  }
  meeting->here[static_cast<size_t>(rank())] = true;
  meeting->contributions[static_cast<size_t>(rank())] = std::move(contribution);
  meeting->counts[static_cast<size_t>(rank())] = std::move(counts);
  if (++meeting->come == size()) group_->changed.notify_all();
  lock.unlock();

  auto done = [meeting, n = size()] { return meeting->come == n; };
  auto finish = [this, meeting, number, take = std::move(take)](std::unique_lock<std::mutex>& held) {
    take(*meeting, held);
    if (++meeting->left == size()) group_->meetings.erase(number);
  };
  return Pending(new ThreadOperation(*this, std::move(call), std::move(done), std::move(finish), meeting));
}

std::string described(const char* call, int64_t count, DType dtype, const char* detail = "") {
  return fmt::format("{}{} of {} x {}", call, detail, count, automodel::name_of(dtype));
}

// Sums slices nobody has claimed yet until none is left, then waits for those that others claimed.
void ThreadCommunicator::sum_slices(Meeting& meeting, Buffer data, Reduce op, std::unique_lock<std::mutex>& lock) {
  const int64_t item = static_cast<int64_t>(size_of(data.dtype));
  meeting.result.resize(static_cast<size_t>(data.bytes()));
  while (meeting.claimed < size()) {
    const int slice = meeting.claimed++;
    lock.unlock();
    const int64_t begin = data.count * slice / size(), end = data.count * (slice + 1) / size();
    std::vector<const void*> inputs;
    for (const Bytes& bytes : meeting.contributions) inputs.push_back(bytes.data() + begin * item);
    tree_reduce(meeting.result.data() + begin * item, inputs, end - begin, data.dtype, op);
    lock.lock();
    if (++meeting.summed == size()) group_->changed.notify_all();
  }
  wait_until(lock, "all_reduce", [&] { return meeting.summed == size(); });
}

Pending ThreadCommunicator::do_all_reduce(Buffer data, Reduce op) {
  return meet(described("all_reduce ", data.count, data.dtype, comm::name_of(op)), copy_of(data.data, data.bytes()), {},
              [this, data, op](Meeting& meeting, std::unique_lock<std::mutex>& lock) {
                sum_slices(meeting, data, op, lock);
                std::memcpy(data.data, meeting.result.data(), meeting.result.size());
              });
}

Pending ThreadCommunicator::do_all_gather(Buffer out, ConstBuffer in) {
  return meet(described("all_gather", in.count, in.dtype), copy_of(in.data, in.bytes()), {},
              [this, out, in](Meeting& meeting, std::unique_lock<std::mutex>& lock) {
                lock.unlock();
                auto* to = static_cast<std::byte*>(out.data);
                for (int r = 0; r < size(); ++r, to += in.bytes()) {
                  if (to != in.data) {
                    std::memcpy(to, meeting.contributions[static_cast<size_t>(r)].data(),
                                static_cast<size_t>(in.bytes()));
                  }
                }
                lock.lock();
              });
}

Pending ThreadCommunicator::do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) {
  return meet(described("reduce_scatter ", in.count, in.dtype, comm::name_of(op)), copy_of(in.data, in.bytes()), {},
              [this, out, op](Meeting& meeting, std::unique_lock<std::mutex>& lock) {
                lock.unlock();
                std::vector<const void*> inputs;
                for (const Bytes& bytes : meeting.contributions) inputs.push_back(bytes.data() + rank() * out.bytes());
                tree_reduce(out.data, inputs, out.count, out.dtype, op);
                lock.lock();
              });
}

Pending ThreadCommunicator::do_broadcast(Buffer data, int root) {
  const bool is_root = rank() == root;
  return meet(fmt::format("broadcast of {} bytes from {}", data.bytes(), root),
              is_root ? copy_of(data.data, data.bytes()) : Bytes{}, {},
              [data, root, is_root](Meeting& meeting, std::unique_lock<std::mutex>& lock) {
                if (is_root) return;
                lock.unlock();
                const Bytes& bytes = meeting.contributions[static_cast<size_t>(root)];
                std::memcpy(data.data, bytes.data(), bytes.size());
                lock.lock();
              });
}

Pending ThreadCommunicator::do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                          std::span<const int64_t> receive_bytes) {
  std::vector<int64_t> expected(receive_bytes.begin(), receive_bytes.end());
  int64_t total = 0;
  for (int64_t count : send_bytes) total += count;
  return meet("all_to_all", copy_of(in.data, total), {send_bytes.begin(), send_bytes.end()},
              [this, out, expected](Meeting& meeting, std::unique_lock<std::mutex>&) {
                auto* to = static_cast<std::byte*>(out.data);
                for (int r = 0; r < size(); ++r) {
                  const auto& counts = meeting.counts[static_cast<size_t>(r)];
                  int64_t offset = 0;
                  for (int k = 0; k < rank(); ++k) offset += counts[static_cast<size_t>(k)];
                  const int64_t sent = counts[static_cast<size_t>(rank())];
                  AM_CHECK(sent == expected[static_cast<size_t>(r)], Fault::kBug,
                           "all_to_all on '{}': rank {} expects {} bytes from rank {}, which sends {}", name(), rank(),
                           expected[static_cast<size_t>(r)], r, sent);
                  if (sent > 0) {
                    std::memcpy(to, meeting.contributions[static_cast<size_t>(r)].data() + offset,
                                static_cast<size_t>(sent));
                  }
                  to += sent;
                }
              });
}

Pending ThreadCommunicator::do_exchange(std::span<const Transfer> transfers) {
  struct Receive {
    Transfer transfer;
    Box* box;  // boxes stay where they are as long as the group lives
    int64_t number;
  };
  check_alive();
  std::vector<Receive> receives;
  {
    std::lock_guard lock(group_->mutex);
    for (const Transfer& t : transfers) {
      if (t.direction == Transfer::Direction::kSend) {
        Box& box = group_->mail[{rank(), t.peer, t.tag}];
        box.messages.emplace(box.sent++, copy_of(t.data.data, t.data.bytes()));
      } else {
        Box& box = group_->mail[{t.peer, rank(), t.tag}];
        receives.push_back({t, &box, box.asked++});
      }
    }
    group_->changed.notify_all();
  }
  if (receives.empty()) return {};

  auto done = [receives] {
    return std::all_of(receives.begin(), receives.end(),
                       [](const Receive& r) { return r.box->messages.count(r.number) > 0; });
  };
  auto take = [this, receives](std::unique_lock<std::mutex>&) {
    for (const Receive& r : receives) {
      auto message = r.box->messages.extract(r.number);
      const Bytes& bytes = message.mapped();
      AM_CHECK(static_cast<int64_t>(bytes.size()) == r.transfer.data.bytes(), Fault::kBug,
               "receive on '{}': rank {} expects {} bytes from rank {}, which sends {}", name(), rank(),
               r.transfer.data.bytes(), r.transfer.peer, bytes.size());
      if (!bytes.empty()) std::memcpy(r.transfer.data.data, bytes.data(), bytes.size());
    }
  };
  const Transfer& first = receives.front().transfer;
  std::string what = fmt::format("{} bytes from rank {}, tag {}", first.data.bytes(), first.peer, first.tag);
  return Pending(new ThreadOperation(*this, std::move(what), std::move(done), std::move(take)));
}

std::unique_ptr<Communicator> ThreadCommunicator::group(std::span<const int> members, std::string name) {
  check_alive();
  std::vector<int> list(members.begin(), members.end());
  int mine = -1;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] == rank()) mine = static_cast<int>(i);
  }
  AM_CHECK(mine >= 0, Fault::kBug, "group '{}' of '{}': rank {} is not among its members", name, this->name(), rank());
  const int n = static_cast<int>(list.size());
  const std::pair key{list, groups_made_[list]++};
  std::lock_guard lock(group_->mutex);
  auto found = group_->children.find(key);
  if (found == group_->children.end()) {
    found = group_->children.emplace(key, std::pair{fabric_->make_group(), n}).first;
  }
  std::shared_ptr<Group> made = found->second.first;
  if (--found->second.second == 0) group_->children.erase(found);
  return std::make_unique<ThreadCommunicator>(std::move(name), mine, n, fabric_, std::move(made), world_rank_);
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_threads(int n, std::chrono::milliseconds deadline) {
  AM_CHECK(n >= 1, Fault::kBug, "make_threads: {} ranks", n);
  auto fabric = std::make_shared<Fabric>(deadline);
  auto group = fabric->make_group();
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < n; ++r) {
    ranks.push_back(std::make_unique<ThreadCommunicator>("world", r, n, fabric, group, r));
  }
  return ranks;
}

}  // namespace automodel::comm

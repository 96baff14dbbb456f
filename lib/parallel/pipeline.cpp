// Messages into one stage in one direction form a channel with one tag, and are received in the order in which the
// other rank makes them, which both know from the schedule. So tags do not run out with the number of microbatches, and
// a schedule written by hand may use microbatches in another order than they come: the early ones wait here.
//
// When receives are posted and tensors dropped depends on the position in the row, not on what has arrived, so that
// every run of a schedule has the same peak of memory, on threads and in a plan too.
#include "parallel/pipeline.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/buffer.h"

namespace automodel::parallel {
namespace {

using ops::buffer_of;
using Clock = std::chrono::steady_clock;

// What enters a stage: its input, or the gradient of its output.
struct Channel {
  int stage = 0;
  bool gradient = false;
  auto operator<=>(const Channel&) const = default;

  int tag() const { return 2 * stage + (gradient ? 1 : 0); }
};

struct Parcel {
  Channel channel;
  int microbatch = 0;
  auto operator<=>(const Parcel&) const = default;
};

bool is_backward(Work work) {
  return work == Work::kBackward || work == Work::kInput;
}

class Executor {
 public:
  Executor(const Schedule& schedule, comm::Communicator& pp, const StageCalls& calls, const PipelineOptions& options)
      : schedule_(schedule), pp_(pp), calls_(calls), ahead_(static_cast<size_t>(std::max(0, options.receives_ahead))) {
    AM_CHECK(schedule.size() == pp.size(), Fault::kBug, "pipeline: the schedule {} is for {} ranks, '{}' has {}",
             schedule.name, schedule.size(), pp.name(), pp.size());
    AM_CHECK(2 * schedule.stages <= comm::Transfer::kMaxTag, Fault::kConfig,
             "pipeline: {} stages; at most {} can be told apart", schedule.stages, comm::Transfer::kMaxTag / 2);
    owner_ = ranks_of_stages(schedule);
    find_arrivals();
  }

  PipelineTimes run() {
    const Clock::time_point start = Clock::now();
    for (const Action& action : row(pp_.rank())) {
      perform(action);
      settle();
      ++done_;
    }
    for (Sending& sending : sending_) sending.pending.wait();
    sending_.clear();
    return {std::chrono::duration<double>(Clock::now() - start).count(), std::chrono::duration<double>(busy_).count()};
  }

 private:
  // The tensor goes away after its transfer is complete: members are destroyed last first.
  struct Arrival {
    Tensor tensor;
    comm::Pending pending;
  };
  struct Sending {
    Tensor tensor;
    comm::Pending pending;
    size_t made_by = 0;  // position of the action in the row
  };
  struct Incoming {
    int from = 0;
    std::vector<int> microbatches;  // in the order in which they are sent
    size_t posted = 0;
  };

  const std::vector<Action>& row(int rank) const { return schedule_.ranks[static_cast<size_t>(rank)]; }
  int owner(int stage) const { return owner_[static_cast<size_t>(stage)]; }

  // What the action takes from, and gives to, another stage. False: nothing.
  bool takes(const Action& a, Parcel& parcel) const {
    parcel = {{a.stage, is_backward(a.work)}, a.microbatch};
    return (a.work == Work::kForward && a.stage > 0) || (is_backward(a.work) && a.stage + 1 < schedule_.stages);
  }
  bool gives(const Action& a, Parcel& parcel) const {
    parcel = {{is_backward(a.work) ? a.stage - 1 : a.stage + 1, is_backward(a.work)}, a.microbatch};
    return (a.work == Work::kForward && a.stage + 1 < schedule_.stages) || (is_backward(a.work) && a.stage > 0);
  }

  void find_arrivals() {
    Parcel parcel;
    for (int rank = 0; rank < schedule_.size(); ++rank) {
      if (rank == pp_.rank()) continue;
      for (const Action& a : row(rank)) {
        if (!gives(a, parcel) || owner(parcel.channel.stage) != pp_.rank()) continue;
        Incoming& incoming = incoming_[parcel.channel];
        incoming.from = rank;
        incoming.microbatches.push_back(a.microbatch);
      }
    }
    for (const Action& a : row(pp_.rank()))
      if (takes(a, parcel) && incoming_.contains(parcel.channel)) needed_.push_back(parcel);
  }

  // Asks for what arrives first in the channel, up to the parcel.
  void post(const Parcel& parcel) {
    Incoming& incoming = incoming_.at(parcel.channel);
    while (!arrivals_.contains(parcel)) {
      const int microbatch = incoming.microbatches.at(incoming.posted++);
      Tensor tensor = calls_.buffer(parcel.channel.stage, microbatch, parcel.channel.gradient);
      AM_CHECK(tensor.defined() && tensor.contiguous(), Fault::kBug,
               "pipeline: the buffer of stage {}, microbatch {} is no contiguous tensor", parcel.channel.stage,
               microbatch);
      const auto transfer = comm::Transfer::receive(incoming.from, buffer_of(tensor), parcel.channel.tag());
      arrivals_[{parcel.channel, microbatch}] = {tensor, pp_.start_exchange({&transfer, 1})};
    }
  }

  void post_first(size_t count) {
    for (; posted_ < std::min(count, needed_.size()); ++posted_) post(needed_[posted_]);
  }

  Tensor take(const Parcel& parcel) {
    auto arrival = arrivals_.extract(parcel);
    arrival.mapped().pending.wait();
    return std::move(arrival.mapped().tensor);
  }

  void give(const Parcel& parcel, Tensor tensor, const Action& action) {
    AM_CHECK(tensor.defined() && tensor.contiguous(), Fault::kBug, "pipeline: {} returned no contiguous tensor",
             to_string(action));
    const int to = owner(parcel.channel.stage);
    if (to == pp_.rank()) {
      arrivals_[parcel] = {std::move(tensor), {}};
      return;
    }
    const auto transfer = comm::Transfer::send(to, buffer_of(tensor), parcel.channel.tag());
    sending_.push_back({std::move(tensor), pp_.start_exchange({&transfer, 1}), done_});
  }

  void perform(const Action& action) {
    Parcel parcel;
    Tensor in;
    const bool takes_one = takes(action, parcel);
    if (takes_one && incoming_.contains(parcel.channel)) ++used_;
    post_first(used_ + ahead_);
    if (takes_one) in = take(parcel);
    const Clock::time_point begin = Clock::now();
    Tensor out = call(action, std::move(in));
    busy_ += Clock::now() - begin;
    if (gives(action, parcel)) give(parcel, std::move(out), action);
  }

  Tensor call(const Action& a, Tensor in) {
    switch (a.work) {
      case Work::kForward:
        return calls_.forward(a.stage, a.microbatch, std::move(in));
      case Work::kBackward:
      case Work::kInput:
        return calls_.backward(a.stage, a.microbatch, std::move(in), a.work);
      case Work::kWeight:
        calls_.weights(a.stage, a.microbatch);
        break;
    }
    return {};
  }

  // Lets messages move on, and drops what was delivered.
  void settle() {
    for (auto& [parcel, arrival] : arrivals_) arrival.pending.ready();
    std::erase_if(sending_, [&](Sending& sending) {
      if (!sending.pending.ready() || sending.made_by == done_) return false;
      sending.pending.wait();  // tells of errors
      return true;
    });
  }

  const Schedule& schedule_;
  comm::Communicator& pp_;
  const StageCalls& calls_;
  const size_t ahead_;
  std::vector<int> owner_;                // of each stage
  std::map<Channel, Incoming> incoming_;  // from other ranks
  std::vector<Parcel> needed_;            // from other ranks, in the order of use
  size_t used_ = 0, posted_ = 0;          // of needed_
  std::map<Parcel, Arrival> arrivals_;    // not yet used
  std::vector<Sending> sending_;
  size_t done_ = 0;  // actions
  Clock::duration busy_{};
};

}  // namespace

PipelineTimes run_pipeline(const Schedule& schedule, comm::Communicator& pp, const StageCalls& calls,
                           const PipelineOptions& options) {
  return Executor(schedule, pp, calls, options).run();
}

}  // namespace automodel::parallel

// What the ranks of a world of threads share. Private to threads.cpp.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"

namespace automodel::comm {

using Bytes = std::vector<std::byte>;

// One collective call. Guarded by its group's mutex, except that contributions are only read once all have come, and
// that a slice of `result` belongs to the rank that claimed it.
struct Meeting {
  std::string call;  // of the first to come
  int first_rank = 0;
  int come = 0, left = 0;
  std::vector<bool> here;  // by rank
  std::vector<Bytes> contributions;
  std::vector<std::vector<int64_t>> counts;  // all_to_all: bytes from each rank to each
  Bytes result;                              // all_reduce
  int claimed = 0, summed = 0;

  std::string missing() const {
    std::string ranks;
    for (size_t r = 0; r < here.size(); ++r)
      if (!here[r]) ranks += fmt::format("{}{}", ranks.empty() ? "; still missing: rank " : ", ", r);
    return ranks;
  }
};

// The messages from one rank to another under one tag. Message k is for the k-th receive, in the order they were
// started.
struct Box {
  int64_t sent = 0, asked = 0;
  std::map<int64_t, Bytes> messages;
};

struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int64_t, std::shared_ptr<Meeting>> meetings;
  std::map<std::tuple<int, int, int>, Box> mail;  // (from, to, tag)
  // Groups being made of members of this one: (members, how many of the same list came before) -> (group, members to
  // come).
  std::map<std::pair<std::vector<int>, int>, std::pair<std::shared_ptr<Group>, int>> children;
};

// What all communicators of a world share.
struct Fabric {
  explicit Fabric(std::chrono::milliseconds deadline) : deadline(deadline) {}

  const std::chrono::milliseconds deadline;
  std::atomic<bool> aborted{false};
  std::mutex mutex;
  std::string why;
  std::vector<std::weak_ptr<Group>> groups;

  std::shared_ptr<Group> make_group() {
    auto group = std::make_shared<Group>();
    std::lock_guard lock(mutex);
    groups.push_back(group);
    return group;
  }

  void abort(std::string reason) {
    std::vector<std::weak_ptr<Group>> all;
    {
      std::lock_guard lock(mutex);
      if (aborted) return;
      why = std::move(reason);
      aborted = true;
      all = groups;
    }
    for (const auto& weak : all) {
      if (auto group = weak.lock()) {
        { std::lock_guard lock(group->mutex); }
        group->changed.notify_all();
      }
    }
  }

  [[noreturn]] void fail_aborted() {
    std::lock_guard lock(mutex);
    throw Error(Fault::kComm, why);
  }
};

}  // namespace automodel::comm

// Ranks as threads of one process: the two collectives that saving needs.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/ranks.h"

namespace automodel::checkpoint::test {

class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : texts_(static_cast<size_t>(size)), numbers_(static_cast<size_t>(size)) {}

  // Runs `body` on every rank; what it throws on a rank is kept by that rank's place in `errors`.
  void run(const std::function<void(const Ranks&)>& body, std::vector<std::string>* errors = nullptr) {
    std::vector<std::string> caught(texts_.size());
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < texts_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        try {
          body(of(rank));
        } catch (const std::exception& error) {
          caught[rank] = error.what();
        }
      });
    }
    for (auto& thread : threads) thread.join();
    if (errors != nullptr) {
      *errors = caught;
    } else {
      for (const auto& text : caught) CHECK(text == "");
    }
  }

 private:
  Ranks of(size_t rank) {
    Ranks ranks;
    ranks.rank = static_cast<int>(rank);
    ranks.size = static_cast<int>(texts_.size());
    ranks.first_text = [this, rank](const std::string& text) {
      texts_[rank] = text;
      wait();
      std::string first;
      for (size_t i = texts_.size(); i-- > 0;)
        if (!texts_[i].empty()) first = texts_[i];
      wait();
      return first;
    };
    ranks.sum = [this, rank](uint64_t number) {
      numbers_[rank] = number;
      wait();
      uint64_t total = 0;
      for (uint64_t n : numbers_) total += n;
      wait();
      return total;
    };
    return ranks;
  }

  void wait() {
    std::unique_lock lock(mutex_);
    size_t round = round_;
    if (++waiting_ == texts_.size()) {
      waiting_ = 0;
      ++round_;
      arrived_.notify_all();
      return;
    }
    arrived_.wait(lock, [&] { return round_ != round; });
  }

  std::vector<std::string> texts_;
  std::vector<uint64_t> numbers_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  size_t waiting_ = 0, round_ = 0;
};

}  // namespace automodel::checkpoint::test

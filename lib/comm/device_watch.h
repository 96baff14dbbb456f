// The watch over one rank's channels. Private to device_ranks.cpp and device_lane.cpp.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "comm/communicator.h"
#include "comm/device_link.h"
#include "comm/device_ranks.h"

namespace automodel::comm {

// What a message about a call says of it.
struct CallText {
  const char* call;
  int64_t count;
  DType dtype;
  std::shared_ptr<const std::string> where;  // "on 'tp' (rank 0 of 2)"

  std::string text() const;
};

class DeviceWatch {
 public:
  // `below` ends the run when the rank's thread does not come back.
  DeviceWatch(Communicator& below, const DeviceRanksOptions& options);
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  void add(std::shared_ptr<DeviceChannel> channel);
  // The channel is the caller's to destroy, and aborted if the run has failed.
  void remove(const DeviceChannel* channel);
  // The channel's next call ends at `done`.
  void launched(const DeviceChannel* channel, CallText call, std::shared_ptr<StreamMark> done);

  // Throws Error(kComm) once something failed.
  void check_alive();
  // Aborts all channels; the first reason stays.
  void fail(std::string why) noexcept;
  // "rank 3 [pp 1, tp 0]"
  std::string me() const;
  void set_places(std::function<std::string(int)> place_of);

 private:
  using Clock = std::chrono::steady_clock;
  struct Flight {
    CallText call;
    std::shared_ptr<StreamMark> done;
    Clock::time_point since;
  };
  struct Watched {
    std::shared_ptr<DeviceChannel> channel;
    std::deque<Flight> flights;
  };

  void run();
  // What is wrong now; "" for nothing. With the mutex held.
  std::string look();
  void end_unless_noticed(std::unique_lock<std::mutex>& lock);

  Communicator& below_;
  const DeviceRanksOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<const DeviceChannel*, Watched> channels_;
  std::string why_, place_;
  bool failed_ = false, noticed_ = false, stopping_ = false;
  std::thread thread_;  // the last member: it uses all others
};

}  // namespace automodel::comm

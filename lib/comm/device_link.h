// What the communicators of comm/device_ranks.h need of a library that talks from device to device (NCCL), and of the
// device's streams: a thin seam, so that everything above it runs in tests without a device. comm/cuda/nccl.h
// implements it over NCCL.
//
// Work on a device runs in streams: in order within one, at the same time otherwise, unless a mark orders them. The
// compute stream is the one that the rank's kernels and copies run on. Nothing here waits for the device.
//
// Threads: the rank's thread alone, except where a function says otherwise.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "comm/communicator.h"

namespace automodel::comm {

// A point in a stream. Goes away at any time: what waits for it goes on waiting.
class StreamMark {
 public:
  virtual ~StreamMark() = default;
  // Whether the device has come to it. Any thread.
  virtual bool passed() = 0;
  // What the compute stream is given from now on runs after it.
  virtual void hold_compute() = 0;
};

// Ranks that the library connects, with a stream of their own. The calls start in it; all ranks make the same ones in
// the same order. After each one of them, settled() has to be true before the next, before mark() and before the end.
class DeviceChannel {
 public:
  // Waits for the calls to end, unless aborted or an exception unwinds the stack.
  virtual ~DeviceChannel() = default;

  // False while the ranks, or what they were asked last, are still being connected. Throws Error(kComm) with the
  // library's words when something failed.
  virtual bool settled() = 0;
  // Of every rank of the channel; those of the same color form a channel, ordered by key. Color < 0: none, gives null.
  // settled() of this one comes first, that of the result says when it can be used.
  virtual std::shared_ptr<DeviceChannel> split(int color, int key, const std::string& name) = 0;

  // The stream's next work runs after the mark.
  virtual void after(StreamMark& mark) = 0;
  // After the stream's work so far.
  virtual std::shared_ptr<StreamMark> mark() = 0;

  // As in comm::Communicator, of device memory.
  virtual void all_reduce(Buffer data, Reduce op) = 0;
  virtual void all_gather(Buffer out, ConstBuffer in) = 0;
  virtual void reduce_scatter(Buffer out, ConstBuffer in, Reduce op) = 0;
  virtual void broadcast(Buffer data, int root) = 0;
  // All at once. Tags play no part: messages between two ranks are matched by order.
  virtual void exchange(std::span<const Transfer> transfers) = 0;

  // What went wrong since the channel was made, in the library's words; "" when nothing did. Any thread.
  virtual std::string trouble() noexcept = 0;
  // Ends the calls that are under way, whatever the peers do. Nothing but destruction may follow. Any thread.
  virtual void abort() noexcept = 0;
};

class DeviceLink {
 public:
  // Names a channel to be made; any rank makes it, all of them use it.
  using Id = std::array<std::byte, 128>;

  virtual ~DeviceLink() = default;
  virtual Device device() const = 0;
  virtual Id make_id() = 0;
  // Called by `size` ranks with the same id; does not wait for them (settled() does).
  virtual std::shared_ptr<DeviceChannel> join(const Id& id, int rank, int size, const std::string& name) = 0;
  // After all that the compute stream was given so far.
  virtual std::shared_ptr<StreamMark> mark_compute() = 0;
};

}  // namespace automodel::comm

// Ranks that can talk, over raw buffers: of the host, or of a device where the backend says so. Calls are collective:
// every member of a communicator makes the same calls in the same order (point-to-point transfers only between the two
// ranks they name).
//
// Law, for all backends but make_device_ranks: a reduction adds in one canonical order, a binary tree over the rank
// index, ((0+1)+(2+3))+..., never in the order of arrival. The tree of n ranks joins neighbours level by level, an odd
// last one moves up alone. So repetition gives the same bits, and all_reduce equals reduce_scatter followed by
// all_gather, on every backend. bf16 is summed in fp32 and rounded once. Sums of integers wrap around; NaN wins a max
// or a min.
//
// Backends: make_single (comm/single.h), make_threads (comm/threads.h), make_planning (comm/planning.h), MPI processes
// (World::mpi); for device memory make_staged (comm/staged.h) and make_device_ranks (comm/device_ranks.h). A World
// (comm/world.h) owns the first communicator of a run; others come from split, group and partition.
//
// Threads: one thread of a rank at a time uses the communicators of that rank.
// Errors: Error(kComm) when a peer failed, was aborted, or did not come before the deadline; Error(kBug) when a call
// breaks its contract.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"

namespace automodel::comm {

// Memory of the caller. It stays untouched (inputs) or unread (outputs) by the caller until the operation is waited
// for.
struct Buffer {
  void* data = nullptr;
  int64_t count = 0;  // elements
  DType dtype = DType::kU8;
  Device device{};

  int64_t bytes() const { return count * static_cast<int64_t>(size_of(dtype)); }
};

struct ConstBuffer {
  const void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kU8;
  Device device{};

  ConstBuffer() = default;
  ConstBuffer(const void* data, int64_t count, DType dtype, Device device = {})
      : data(data), count(count), dtype(dtype), device(device) {}
  ConstBuffer(const Buffer& buffer)  // NOLINT
      : ConstBuffer(buffer.data, buffer.count, buffer.dtype, buffer.device) {}
  int64_t bytes() const { return count * static_cast<int64_t>(size_of(dtype)); }
};

// The element types that reductions know, as C++ types.
template <class T>
constexpr DType dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return DType::kF32;
  else if constexpr (std::is_same_v<U, double>)
    return DType::kF64;
  else if constexpr (std::is_same_v<U, bf16>)
    return DType::kBF16;
  else if constexpr (std::is_same_v<U, int64_t>)
    return DType::kI64;
  else if constexpr (std::is_same_v<U, int32_t>)
    return DType::kI32;
  else {
    static_assert(std::is_same_v<U, uint8_t>, "no dtype for this type");
    return DType::kU8;
  }
}

template <class T>
Buffer buffer_of(std::vector<T>& values) {
  return {values.data(), static_cast<int64_t>(values.size()), dtype_of<T>()};
}
template <class T>
ConstBuffer buffer_of(const std::vector<T>& values) {
  return {values.data(), static_cast<int64_t>(values.size()), dtype_of<T>()};
}

enum class Reduce { kSum, kMax, kMin };

const char* name_of(Reduce op);

// One message of a point-to-point group. Messages between two ranks are matched by tag, and within a tag by order.
struct Transfer {
  enum class Direction { kSend, kReceive };
  static constexpr int kMaxTag = 16383;

  Direction direction;
  int peer;     // rank in the communicator
  Buffer data;  // only read when sending; both sides name the same number of bytes
  int tag = 0;  // 0..kMaxTag

  static Transfer send(int to, ConstBuffer data, int tag = 0) {
    return {Direction::kSend, to, {const_cast<void*>(data.data), data.count, data.dtype, data.device}, tag};
  }
  static Transfer receive(int from, Buffer data, int tag = 0) { return {Direction::kReceive, from, data, tag}; }
};

// An operation in flight, as a backend implements it. Users hold a Pending.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual void wait() = 0;              // returns when the outputs are written and the inputs may change
  virtual bool ready() = 0;             // drives progress; true when wait() would not block
  virtual void release(bool done) = 0;  // gives the object back; not done: the operation is abandoned
};

// The handle of a started operation; it does not outlive its communicator. The operation is complete when wait()
// returns. A Pending that goes away without wait() waits in its destructor (errors are dropped), except while an
// exception unwinds the stack: then the operation is abandoned, its buffers must outlive the world, and its
// communicator is of no further use.
class [[nodiscard]] Pending {
 public:
  Pending() = default;  // already complete
  explicit Pending(Operation* operation) : operation_(operation) {}
  Pending(Pending&& other) noexcept : operation_(std::exchange(other.operation_, nullptr)) {}
  Pending& operator=(Pending&& other) noexcept;
  ~Pending();

  void wait();
  // True when wait() would return at once. Also lets every operation in flight of this rank make progress.
  bool ready() { return operation_ == nullptr || operation_->ready(); }

 private:
  void give_up() noexcept;

  Operation* operation_ = nullptr;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // What messages and records call it: "world", or the mesh axes it runs along ("dp_shard_cp").
  const std::string& name() const { return name_; }

  // Whether buffers may be memory of `device`; other buffers are Error(kBug).
  virtual bool reaches(Device device) const { return !device.is_cuda(); }

  // Every rank calls; ranks with the same color form a communicator, ordered by (key, rank). Color < 0: none, gives
  // null.
  virtual std::unique_ptr<Communicator> split(int color, int key, std::string name);

  // The communicator of the ranks `members` (ranks of this one; their order gives the new ranks). Called by the members
  // alone, all with the same list; other groups may be made at the same time. Needs no talk to know its shape, so it
  // also works on the planning backend.
  virtual std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) = 0;

  // As group, but called by every rank of this communicator, each with the members of the one group that it is in; all
  // groups are of one size. Backends may then build on what they have.
  virtual std::unique_ptr<Communicator> partition(std::span<const int> members, std::string name) {
    return group(members, std::move(name));
  }

  // Starting an operation never blocks for peers. wait() of the result does; operations may be waited for in any order.

  [[nodiscard]] Pending start_all_reduce(Buffer data, Reduce op);  // in place
  // out.count = size * in.count, in rank order. `in` may be the own slice inside `out`.
  [[nodiscard]] Pending start_all_gather(Buffer out, ConstBuffer in);
  // in.count = size * out.count. `out` may be the own slice inside `in`; the other slices of `in` are kept.
  [[nodiscard]] Pending start_reduce_scatter(Buffer out, ConstBuffer in, Reduce op);
  [[nodiscard]] Pending start_broadcast(Buffer data, int root);
  // Slices lie back to back in rank order; counts are bytes per rank. What I send to r is what r receives from me.
  [[nodiscard]] Pending start_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                         std::span<const int64_t> receive_bytes);
  // Sends and receives that make progress together, so their order within the group cannot deadlock.
  [[nodiscard]] Pending start_exchange(std::span<const Transfer> transfers);

  void all_reduce(Buffer data, Reduce op) { start_all_reduce(data, op).wait(); }
  void all_gather(Buffer out, ConstBuffer in) { start_all_gather(out, in).wait(); }
  void reduce_scatter(Buffer out, ConstBuffer in, Reduce op) { start_reduce_scatter(out, in, op).wait(); }
  void broadcast(Buffer data, int root) { start_broadcast(data, root).wait(); }
  void all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                  std::span<const int64_t> receive_bytes) {
    start_all_to_all(out, in, send_bytes, receive_bytes).wait();
  }
  void exchange(std::span<const Transfer> transfers) { start_exchange(transfers).wait(); }
  // A send may block until the peer receives.
  void send(int to, ConstBuffer data, int tag = 0);
  void receive(int from, Buffer data, int tag = 0);
  virtual void barrier() = 0;

  // The reduction of one number per rank (float, double, int32_t, int64_t, uint8_t).
  template <class T>
  T reduced(T value, Reduce op) {
    all_reduce({&value, 1, dtype_of<T>()}, op);
    return value;
  }

  // How messages about ranks of the world describe their place in the mesh ("pp 0, dp_shard 1", or ""), on every
  // communicator of the world. Backends that tell of no ranks ignore it.
  virtual void set_places(std::function<std::string(int world_rank)>) {}

  // Frees peers blocked in a call, on every communicator of the same world: they throw Error(kComm) with `why` of the
  // first rank that aborted. On mpi this ends all processes and does not return.
  virtual void abort(std::string_view why) noexcept = 0;

 protected:
  Communicator(std::string name, int rank, int size) : name_(std::move(name)), rank_(rank), size_(size) {}

  // The arguments are checked and not empty.
  virtual Pending do_all_reduce(Buffer data, Reduce op) = 0;
  virtual Pending do_all_gather(Buffer out, ConstBuffer in) = 0;
  virtual Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) = 0;
  virtual Pending do_broadcast(Buffer data, int root) = 0;
  virtual Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                std::span<const int64_t> receive_bytes) = 0;
  virtual Pending do_exchange(std::span<const Transfer> transfers) = 0;

 private:
  std::string name_;
  int rank_;
  int size_;
};

}  // namespace automodel::comm

// The engine of the mpi backend: calls in flight as messages, and what to do when they have arrived. Private to
// mpi.cpp; MPI's own types stay in the sources (a communicator is passed as a pointer to its MPI_Comm).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "comm/scratch.h"

namespace automodel::comm {

enum class MpiCall { kBarrier, kAllReduce, kAllGather, kReduceScatter, kBroadcast, kAllToAll, kExchange, kMakeGroup };

// The tag of the making of groups. MPI guarantees tags up to 32767.
constexpr int kGroupTag = 32767;

// Throws Error(kComm) with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call, const std::string& where);

// Where an operation happens.
struct MpiPlace {
  const Communicator* communicator;
  const void* comm;                     // its MPI_Comm
  const std::vector<int>* world_ranks;  // of its members
};

class MpiOperation;

// What the communicators of this process share.
struct MpiEngine {
  int world_rank = 0;
  std::chrono::milliseconds deadline{};
  int64_t max_message_bytes = 0;
  std::function<std::string(int world_rank)> place_of;  // may be empty
  ScratchPool scratch;
  std::vector<MpiOperation*> in_flight;  // in the order they were started
  std::vector<std::unique_ptr<MpiOperation>> idle;

  ~MpiEngine();
  // A new operation, or one that is done with; it belongs to the Pending that is made of it.
  MpiOperation& start();
  // Moves every operation in flight on as far as the arrived messages allow.
  void progress();
  // "rank 3 [pp 1, tp 0]"
  std::string name_of(int world_rank) const;
  // The launcher ends this process because of another one while it waits: says on stderr what for, once.
  void tell_of_end(MpiOperation& waiting, std::chrono::milliseconds waited);
  void tell_of_end(const std::string& what, std::chrono::milliseconds waited);
  // When several ranks fail at once the lowest one ends the run: leaves it the time, and returns whether one did.
  bool is_preceded() noexcept;
  // Prints "rank R failed: why" and ends every process of the job with exit code 1. Says nothing where another rank
  // came first.
  [[noreturn]] void end_run(std::string_view why) noexcept;

 private:
  std::optional<std::chrono::steady_clock::time_point> told_;  // to end, since when
  bool spoke_ = false;
  std::optional<bool> preceded_;
};

// The slice of an all_reduce that a rank sums.
Buffer slice_of(Buffer whole, int rank, int size);

class MpiOperation final : public Operation {
 public:
  enum class Then { kNothing, kForward, kReduce, kReduceAndGather };

  explicit MpiOperation(MpiEngine& engine);
  ~MpiOperation() override;

  // Call `number` of the communicator at `place`.
  void begin(MpiCall call, int64_t number, const MpiPlace& place);

  void send(const void* data, int64_t bytes, int peer, int tag);
  void receive(void* data, int64_t bytes, int peer, int tag);
  void send(const void* data, int64_t bytes, int peer) { send(data, bytes, peer, tag_); }
  void receive(void* data, int64_t bytes, int peer) { receive(data, bytes, peer, tag_); }
  // Down a binomial tree.
  void broadcast(Buffer data, int root);

  // Receives `bytes` from every peer into scratch; input r of the later reduction is that of rank r, the own one is
  // `own`.
  void receive_contributions(const void* own, int64_t bytes);
  // After the messages: out = tree over the inputs; with kReduceAndGather `whole` then collects every rank's slice.
  void then_reduce(Then then, Buffer out, Reduce op, Buffer whole = {});

  // Moves on as far as the arrived messages allow. True when done.
  bool advance();
  bool done() const { return done_; }

  // "all_reduce of 64 bytes on 'tp' (rank 0 of 2); still missing: rank 3 [pp 1, tp 1]"
  std::string description();
  // Whether somebody is missing, and this rank is the first of those that are not: it speaks for all of them.
  bool speaks();

  void wait() override;
  bool ready() override;
  void release(bool done) override;

 private:
  struct Wire;  // requests, statuses and their peers

  void check_sizes();
  void go_on();
  std::vector<int> missing();
  [[noreturn]] void fail_broken(int code);
  [[noreturn]] void give_up(std::chrono::milliseconds waited);

  MpiEngine& engine_;
  std::unique_ptr<Wire> wire_;
  const char* call_ = "";
  std::string where_;
  const std::vector<int>* world_ranks_ = nullptr;
  int rank_ = 0, size_ = 1;
  int tag_ = 0;
  int64_t bytes_ = 0;
  ScratchPool::Block scratch_;
  std::vector<const void*> inputs_;
  std::vector<int> children_;  // broadcast: ranks that this one sends to
  Then then_ = Then::kNothing;
  Buffer out_, whole_;
  Reduce op_ = Reduce::kSum;
  bool done_ = true;
};

}  // namespace automodel::comm

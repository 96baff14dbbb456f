// The ranks of a run. Built once in main (or by a test) and passed; nothing else creates communicators except by split
// and group of the world's own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "comm/planning.h"

namespace automodel::comm {

// Where the launcher says this process stands. -1: not said.
struct LaunchedAs {
  int rank = -1;
  int size = -1;
};

struct MpiOptions {
  LaunchedAs expected;  // checked against what MPI finds: a program started by another MPI's launcher is told so
  // The longest that a rank waits for its peers before it ends the run, naming what it waited for.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  // Messages are cut into pieces of this many bytes (MPI counts are 31 bits). Tests set it low.
  int64_t max_message_bytes = int64_t{1} << 30;
};

class World {
 public:
  // One rank, no launcher, no MPI.
  static World single();
  // Joins the other processes of the job: MPI_Init_thread now, MPI_Finalize in the destructor. Call only under a
  // launcher (launch/detect.h), once per process. Error(kUsage) when MPI does not start or disagrees with the launcher.
  static World mpi(const MpiOptions& options);
  // Ranks 0..n-1 as threads of this process, for tests.
  static std::vector<World> threads(int n, std::chrono::milliseconds deadline = std::chrono::minutes(5));
  // Rank `rank` of an imagined world of `size` ranks, `local_size` to a node.
  static World planning(int rank, int size, int local_size, Recorder recorder);

  World(World&&) = default;
  World& operator=(World&&) = delete;
  // A world that is left by an exception ends the run: its peers must not wait for a rank that is gone.
  ~World();

  Communicator& global() { return *global_; }
  int rank() const { return global_->rank(); }
  int size() const { return global_->size(); }
  bool is_main() const { return rank() == 0; }
  // Position among the ranks of this machine.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  // The longest that a rank waits for its peers.
  std::chrono::milliseconds deadline() const { return deadline_; }
  // This rank's place in the mesh, as set_places has it; "" before.
  const std::string& place() const { return place_; }

  // From now on `recorder` is told of every call of global() and of the communicators made from it afterwards.
  void observe(Recorder recorder);

  // How messages describe a rank's place in the mesh ("pp 0, dp_shard 1"): in abort, and where a rank tells which peers
  // it waits for. May be called until the world ends.
  void set_places(const std::function<std::string(int rank)>& place_of);

  // Ends the run because of `message`. On mpi: prints "rank R failed: [<place>] <message>" on stderr, ends every
  // process of the job with exit code 1 and does not return; when several ranks fail at once the lowest one speaks. On
  // threads: wakes every rank with Error(kComm) and returns. On single and planning: returns. So a main function
  // catches, calls abort, prints, and returns the error's exit code.
  void abort(std::string_view message) noexcept;

 private:
  // `runtime` is what closes when the last communicator is gone (MPI).
  World(std::unique_ptr<Communicator> global, int local_rank, int local_size, std::shared_ptr<void> runtime = nullptr);

  std::shared_ptr<void> runtime_;  // before global_: closed after it
  std::unique_ptr<Communicator> global_;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::chrono::milliseconds deadline_ = MpiOptions().deadline;
  std::string place_;
  int exceptions_at_birth_;
};

}  // namespace automodel::comm

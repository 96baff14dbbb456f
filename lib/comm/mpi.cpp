// Ranks that are MPI processes; host memory. World::mpi is the way in.
//
// MPI's own collectives are not used. Gathers and reductions are exchanges of slices between all pairs of ranks plus
// the local tree sum: MPI promises no order of summation and knows no bf16, and OpenMPI's reduce_scatter is four times
// slower than the exchange. Barrier and broadcast are messages too, so that a rank always knows whom it waits for. An
// all_reduce below 64 KiB gathers everything and sums locally (one round trip); a larger one sums its own slice, then
// gathers the sums. Whoever waits drives all operations in flight of its rank, on whatever communicator, so operations
// may be waited for in any order.
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>

#include "comm/mpi_operation.h"
#include "comm/patience.h"
#include "comm/world.h"
#include "core/error.h"

namespace automodel::comm {
namespace {

constexpr int64_t kSmallAllReduce = 64 << 10;  // bytes

class MpiCommunicator final : public Communicator {
 public:
  // `world_ranks` of the members.
  MpiCommunicator(std::string name, MPI_Comm comm, std::shared_ptr<MpiEngine> engine, int rank,
                  std::vector<int> world_ranks)
      : Communicator(std::move(name), rank, static_cast<int>(world_ranks.size())),
        comm_(comm),
        engine_(std::move(engine)),
        world_ranks_(std::move(world_ranks)) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }

  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override;
  void barrier() override {
    MpiOperation& op = begin(MpiCall::kBarrier);
    for (int k = 1; k < size(); ++k) {
      op.receive(nullptr, 0, target(k));
      op.send(nullptr, 0, target(k));
    }
    Pending(&op).wait();
  }
  void set_places(std::function<std::string(int)> place_of) override { engine_->place_of = std::move(place_of); }
  void abort(std::string_view why) noexcept override { engine_->end_run(why); }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override;
  Pending do_all_gather(Buffer out, ConstBuffer in) override;
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override;
  Pending do_broadcast(Buffer data, int root) override;
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override;
  Pending do_exchange(std::span<const Transfer> transfers) override;

 private:
  MpiOperation& begin(MpiCall call) {
    // Exchanges and groups are not collective: they do not count, and name their tags themselves.
    const bool counts = call != MpiCall::kExchange && call != MpiCall::kMakeGroup;
    MpiOperation& op = engine_->start();
    op.begin(call, counts ? calls_++ : 0, {this, &comm_, &world_ranks_});
    return op;
  }
  // The ranks in the order in which this one sends to them: everybody starts elsewhere.
  int target(int k) const { return (rank() + k) % size(); }

  MPI_Comm comm_;
  std::shared_ptr<MpiEngine> engine_;
  std::vector<int> world_ranks_;
  int64_t calls_ = 0;
};

Pending MpiCommunicator::do_all_reduce(Buffer data, Reduce reduce) {
  MpiOperation& op = begin(MpiCall::kAllReduce);
  if (data.bytes() < kSmallAllReduce) {
    op.receive_contributions(data.data, data.bytes());
    for (int k = 1; k < size(); ++k) op.send(data.data, data.bytes(), target(k));
    op.then_reduce(MpiOperation::Then::kReduce, data, reduce);
  } else {
    const Buffer own = slice_of(data, rank(), size());
    op.receive_contributions(own.data, own.bytes());
    for (int k = 1; k < size(); ++k) {
      const Buffer slice = slice_of(data, target(k), size());
      op.send(slice.data, slice.bytes(), target(k));
    }
    op.then_reduce(MpiOperation::Then::kReduceAndGather, own, reduce, data);
  }
  return Pending(&op);
}

Pending MpiCommunicator::do_all_gather(Buffer out, ConstBuffer in) {
  MpiOperation& op = begin(MpiCall::kAllGather);
  auto* to = static_cast<std::byte*>(out.data);
  for (int k = 1; k < size(); ++k) {
    const int from = (rank() - k + size()) % size();
    op.receive(to + from * in.bytes(), in.bytes(), from);
    op.send(in.data, in.bytes(), target(k));
  }
  std::byte* own = to + rank() * in.bytes();
  if (own != in.data) std::memcpy(own, in.data, static_cast<size_t>(in.bytes()));
  return Pending(&op);
}

Pending MpiCommunicator::do_reduce_scatter(Buffer out, ConstBuffer in, Reduce reduce) {
  MpiOperation& op = begin(MpiCall::kReduceScatter);
  const auto* from = static_cast<const std::byte*>(in.data);
  op.receive_contributions(from + rank() * out.bytes(), out.bytes());
  for (int k = 1; k < size(); ++k) op.send(from + target(k) * out.bytes(), out.bytes(), target(k));
  op.then_reduce(MpiOperation::Then::kReduce, out, reduce);
  return Pending(&op);
}

Pending MpiCommunicator::do_broadcast(Buffer data, int root) {
  MpiOperation& op = begin(MpiCall::kBroadcast);
  op.broadcast(data, root);
  return Pending(&op);
}

Pending MpiCommunicator::do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                                       std::span<const int64_t> receive_bytes) {
  MpiOperation& op = begin(MpiCall::kAllToAll);
  auto* to = static_cast<std::byte*>(out.data);
  const auto* from = static_cast<const std::byte*>(in.data);
  for (int r = 0; r < size(); ++r) {
    const int64_t sent = send_bytes[static_cast<size_t>(r)], received = receive_bytes[static_cast<size_t>(r)];
    if (r == rank()) {
      if (sent > 0) std::memcpy(to, from, static_cast<size_t>(sent));
    } else {
      op.receive(to, received, r);
      op.send(from, sent, r);
    }
    to += received;
    from += sent;
  }
  return Pending(&op);
}

Pending MpiCommunicator::do_exchange(std::span<const Transfer> transfers) {
  MpiOperation& op = begin(MpiCall::kExchange);
  for (const Transfer& t : transfers) {
    if (t.direction == Transfer::Direction::kReceive) op.receive(t.data.data, t.data.bytes(), t.peer, t.tag);
  }
  for (const Transfer& t : transfers) {
    if (t.direction == Transfer::Direction::kSend) op.send(t.data.data, t.data.bytes(), t.peer, t.tag);
  }
  return Pending(&op);
}

// Making a communicator blocks inside MPI without a deadline, so the members first make sure that all of them are here:
// a dissemination barrier of log2(n) rounds of one byte.
std::unique_ptr<Communicator> MpiCommunicator::group(std::span<const int> members, std::string name) {
  const int n = static_cast<int>(members.size());
  const auto found = std::find(members.begin(), members.end(), rank());
  AM_CHECK(found != members.end(), Fault::kBug, "group '{}' of '{}': rank {} is not among its members", name,
           this->name(), rank());
  const int mine = static_cast<int>(found - members.begin());
  for (int step = 1; step < n; step *= 2) {
    const std::byte out{1};
    std::byte in{0};
    MpiOperation& op = begin(MpiCall::kMakeGroup);
    op.receive(&in, 1, members[static_cast<size_t>((mine - step + n) % n)], kGroupTag);
    op.send(&out, 1, members[static_cast<size_t>((mine + step) % n)], kGroupTag);
    Pending(&op).wait();
  }
  MPI_Group all, some;
  MPI_Comm made;
  check_mpi(MPI_Comm_group(comm_, &all), "group", name);
  check_mpi(MPI_Group_incl(all, n, members.data(), &some), "group", name);
  check_mpi(MPI_Comm_create_group(comm_, some, 0, &made), "group", name);
  MPI_Group_free(&all);
  MPI_Group_free(&some);
  std::vector<int> world_ranks;
  for (int member : members) world_ranks.push_back(world_ranks_[static_cast<size_t>(member)]);
  return std::make_unique<MpiCommunicator>(std::move(name), made, engine_, mine, std::move(world_ranks));
}

// MPI for the life of the process: finalized when the world and its communicators are gone.
struct MpiRuntime {
  std::shared_ptr<MpiEngine> engine = std::make_shared<MpiEngine>();

  explicit MpiRuntime(const MpiOptions& options) {
    AM_CHECK(options.max_message_bytes >= 1 && options.max_message_bytes <= (int64_t{1} << 30), Fault::kBug,
             "World::mpi: max_message_bytes is {}; 1..2^30 are allowed", options.max_message_bytes);
    int initialized = 0, provided = 0;
    MPI_Initialized(&initialized);
    AM_CHECK(!initialized, Fault::kBug, "World::mpi: MPI was started before");
    AM_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) == MPI_SUCCESS, Fault::kUsage,
             "MPI does not start");
    MPI_Comm_rank(MPI_COMM_WORLD, &engine->world_rank);
    engine->deadline = options.deadline;
    engine->max_message_bytes = options.max_message_bytes;
  }
  // While an exception unwinds, World's destructor has ended the run already. MPI_Finalize waits for everybody at full
  // speed and without a deadline, so a patient barrier goes before it.
  ~MpiRuntime() {
    if (std::uncaught_exceptions() > 0) return;
    MPI_Request request;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    Patience patience(0, engine->deadline);
    for (int all_here = 0;;) {
      MPI_Test(&request, &all_here, MPI_STATUS_IGNORE);
      if (all_here) break;
      if (!patience.pause()) engine->end_run("finished, but other ranks did not before the deadline");
    }
    MPI_Finalize();
  }
};

void check_launcher(const LaunchedAs& expected, int rank, int size) {
  AM_CHECK(
      (expected.rank < 0 || expected.rank == rank) && (expected.size < 0 || expected.size == size), Fault::kUsage,
      "the launcher started this process as rank {} of {}, but MPI says rank {} of {}; start it with the mpirun of "
      "the MPI library it was built with (or srun --mpi=pmix)",
      expected.rank, expected.size, rank, size);
}

}  // namespace

World World::mpi(const MpiOptions& options) {
  auto runtime = std::make_shared<MpiRuntime>(options);
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  check_launcher(options.expected, rank, size);
  MPI_Comm node, all;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node), "split", "world");
  MPI_Comm_rank(node, &local_rank);
  MPI_Comm_size(node, &local_size);
  MPI_Comm_free(&node);
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &all), "dup", "world");
  std::vector<int> world_ranks(static_cast<size_t>(size));
  std::iota(world_ranks.begin(), world_ranks.end(), 0);
  auto global = std::make_unique<MpiCommunicator>("world", all, runtime->engine, rank, std::move(world_ranks));
  World world(std::move(global), local_rank, local_size, std::move(runtime));
  world.deadline_ = options.deadline;
  return world;
}

}  // namespace automodel::comm

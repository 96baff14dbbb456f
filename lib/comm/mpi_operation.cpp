#include "comm/mpi_operation.h"

#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "comm/patience.h"
#include "comm/reduce.h"
#include "core/error.h"

namespace automodel::comm {
namespace {

// Tags on a communicator: 0..kMaxTag are the caller's, then (number, kind) of the collective calls, then kGroupTag.
// Ranks that call different things wait for each other until the deadline names the calls, instead of taking one for
// the other.
constexpr int kFirstCallTag = Transfer::kMaxTag + 1;
constexpr int kCallTags = 2047;
constexpr int kKinds = 8;
constexpr const char* kCallNames[kKinds] = {"barrier",   "all_reduce", "all_gather", "reduce_scatter",
                                            "broadcast", "all_to_all", "exchange",   "group"};

}  // namespace

void check_mpi(int code, const char* call, const std::string& where) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  int kind = MPI_ERR_OTHER;
  MPI_Error_class(code, &kind);
  // A broken connection is mostly the echo of a peer that failed; leave it the time to end the run with its own
  // message.
  if (kind != MPI_ERR_TRUNCATE) std::this_thread::sleep_for(std::chrono::seconds(2));
  fail(Fault::kComm, "{} on '{}': {}", call, where, text);
}

struct MpiOperation::Wire {
  MPI_Comm comm = MPI_COMM_NULL;
  std::vector<MPI_Request> requests;
  std::vector<MPI_Status> statuses;
  std::vector<int> peers, expected;  // per request; bytes of a receive, -1 for others

  MPI_Request* add(int peer, int bytes) {
    requests.push_back(MPI_REQUEST_NULL);
    peers.push_back(peer);
    expected.push_back(bytes);
    return &requests.back();
  }
};

MpiOperation::MpiOperation(MpiEngine& engine) : engine_(engine), wire_(std::make_unique<Wire>()) {}

MpiOperation::~MpiOperation() = default;

void MpiOperation::begin(MpiCall call, int64_t number, const Communicator& on, const void* comm) {
  call_ = kCallNames[static_cast<int>(call)];
  where_ = on.name();
  rank_ = on.rank();
  size_ = on.size();
  wire_->comm = *static_cast<const MPI_Comm*>(comm);
  tag_ = kFirstCallTag + static_cast<int>(number % kCallTags) * kKinds + static_cast<int>(call);
  bytes_ = 0;
  then_ = Then::kNothing;
  done_ = false;
}

void MpiOperation::barrier() {
  check_mpi(MPI_Ibarrier(wire_->comm, wire_->add(-1, -1)), call_, where_);
}

void MpiOperation::broadcast(Buffer data, int root) {
  auto* bytes = static_cast<std::byte*>(data.data);
  bytes_ += data.bytes();
  for (int64_t left = data.bytes(); left > 0;) {
    const int piece = static_cast<int>(std::min(left, engine_.max_message_bytes));
    check_mpi(MPI_Ibcast(bytes, piece, MPI_BYTE, root, wire_->comm, wire_->add(-1, -1)), call_, where_);
    bytes += piece;
    left -= piece;
  }
}

void MpiOperation::then_reduce(Then then, Buffer out, Reduce op, Buffer whole) {
  then_ = then;
  out_ = out;
  op_ = op;
  whole_ = whole;
}

Buffer slice_of(Buffer whole, int rank, int size) {
  const int64_t begin = whole.count * rank / size, end = whole.count * (rank + 1) / size;
  const int64_t item = static_cast<int64_t>(size_of(whole.dtype));
  return {static_cast<std::byte*>(whole.data) + begin * item, end - begin, whole.dtype};
}

void MpiOperation::send(const void* data, int64_t bytes, int peer, int tag) {
  const auto* from = static_cast<const std::byte*>(data);
  bytes_ += bytes;
  do {
    const int piece = static_cast<int>(std::min(bytes, engine_.max_message_bytes));
    check_mpi(MPI_Isend(from, piece, MPI_BYTE, peer, tag, wire_->comm, wire_->add(peer, -1)), call_, where_);
    from += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void MpiOperation::receive(void* data, int64_t bytes, int peer, int tag) {
  auto* to = static_cast<std::byte*>(data);
  bytes_ += bytes;
  do {
    const int piece = static_cast<int>(std::min(bytes, engine_.max_message_bytes));
    check_mpi(MPI_Irecv(to, piece, MPI_BYTE, peer, tag, wire_->comm, wire_->add(peer, piece)), call_, where_);
    to += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void MpiOperation::receive_contributions(const void* own, int64_t bytes) {
  const int64_t stride = (bytes + 63) / 64 * 64;
  scratch_ = engine_.scratch.take(stride * (size_ - 1));
  inputs_.assign(static_cast<size_t>(size_), own);
  std::byte* to = scratch_.data.get();
  for (int k = 1; k < size_; ++k, to += stride) {
    const int peer = (rank_ - k + size_) % size_;
    inputs_[static_cast<size_t>(peer)] = to;
    receive(to, bytes, peer);
  }
}

void MpiOperation::check_sizes() {
  for (size_t i = 0; i < wire_->requests.size(); ++i) {
    if (wire_->expected[i] < 0) continue;
    int arrived = 0;
    MPI_Get_count(&wire_->statuses[i], MPI_BYTE, &arrived);
    AM_CHECK(arrived == wire_->expected[i], Fault::kBug,
             "{} on '{}': rank {} expects {} bytes from rank {}, which sends {}", call_, where_, rank_,
             wire_->expected[i], wire_->peers[i], arrived);
  }
}

bool MpiOperation::advance() {
  while (!done_) {
    int all = 0;
    wire_->statuses.resize(wire_->requests.size());
    const int code =
        MPI_Testall(static_cast<int>(wire_->requests.size()), wire_->requests.data(), &all, wire_->statuses.data());
    if (code == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& status : wire_->statuses) {
        if (status.MPI_ERROR != MPI_ERR_PENDING) check_mpi(status.MPI_ERROR, call_, where_);
      }
    }
    check_mpi(code, call_, where_);
    if (all == 0) return false;
    check_sizes();
    wire_->requests.clear();
    wire_->peers.clear();
    wire_->expected.clear();
    if (then_ != Then::kNothing) tree_reduce(out_.data, inputs_, out_.count, out_.dtype, op_);
    if (then_ != Then::kReduceAndGather) {
      done_ = true;
      break;
    }
    then_ = Then::kNothing;
    for (int k = 1; k < size_; ++k) {
      const int from = (rank_ - k + size_) % size_;
      const Buffer slice = slice_of(whole_, from, size_);
      receive(slice.data, slice.bytes(), from);
      send(out_.data, out_.bytes(), (rank_ + k) % size_);
    }
  }
  return true;
}

std::string MpiOperation::description() {
  std::string missing;
  int listed = 0;
  for (size_t i = 0; i < wire_->requests.size() && listed < 8; ++i) {
    int flag = 1;
    if (wire_->requests[i] != MPI_REQUEST_NULL) MPI_Test(&wire_->requests[i], &flag, MPI_STATUS_IGNORE);
    const std::string peer = fmt::format(" {}", wire_->peers[i]);
    if (flag || wire_->peers[i] < 0 || missing.find(peer) != std::string::npos) continue;
    missing += peer;
    ++listed;
  }
  return fmt::format("{} of {} bytes on '{}' (rank {} of {}){}{}", call_, bytes_, where_, rank_, size_,
                     missing.empty() ? "" : "; still missing: rank", missing);
}

void MpiOperation::wait() {
  Patience patience(bytes_, engine_.deadline);
  while (true) {
    engine_.progress();
    if (done_) return;
    if (!patience.pause()) {
      engine_.end_run(fmt::format("waited {} ms for {}; did a peer hang, or call something else?",
                                  patience.waited().count(), description()));
    }
  }
}

bool MpiOperation::ready() {
  engine_.progress();
  return done_;
}

void MpiOperation::release(bool done) {
  if (!done) return;  // abandoned: messages may still arrive, so everything stays as it is until the process ends
  engine_.scratch.give_back(std::move(scratch_));
  scratch_ = {};
  engine_.idle.emplace_back(this);
}

MpiEngine::~MpiEngine() = default;

MpiOperation& MpiEngine::start() {
  std::unique_ptr<MpiOperation> operation;
  if (idle.empty()) {
    operation = std::make_unique<MpiOperation>(*this);
  } else {
    operation = std::move(idle.back());
    idle.pop_back();
  }
  in_flight.push_back(operation.get());
  return *operation.release();
}

void MpiEngine::progress() {
  for (MpiOperation* operation : in_flight) operation->advance();
  std::erase_if(in_flight, [](const MpiOperation* operation) { return operation->done(); });
}

void MpiEngine::end_run(std::string_view why) noexcept {
  // When several ranks fail at once the lowest one prints and the others are ended before they can.
  timespec delay{0, std::min(world_rank * 20, 400) * 1'000'000L};
  nanosleep(&delay, nullptr);
  std::fprintf(stderr, "rank %d failed: %.*s\n", world_rank, static_cast<int>(why.size()), why.data());
  std::fflush(stderr);
  std::fflush(stdout);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::_Exit(1);
}

}  // namespace automodel::comm

#include "comm/mpi_operation.h"

#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "comm/patience.h"
#include "comm/reduce.h"
#include "comm/signals.h"
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
// How long a rank waits on after it was told to end before it says what for: mpirun leaves it a second.
constexpr std::chrono::milliseconds kBeforeTelling{300};
// A broken connection is mostly the echo of a peer that failed; that peer gets this long to end the run with a message
// of its own.
constexpr std::chrono::milliseconds kForTheCause{2000};

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return text;
}

}  // namespace

void check_mpi(int code, const char* call, const std::string& where) {
  if (code == MPI_SUCCESS) return;
  int kind = MPI_ERR_OTHER;
  MPI_Error_class(code, &kind);
  if (kind != MPI_ERR_TRUNCATE) std::this_thread::sleep_for(kForTheCause);
  fail(Fault::kComm, "{} on '{}': {}", call, where, text_of(code));
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

void MpiOperation::begin(MpiCall call, int64_t number, const MpiPlace& place) {
  call_ = kCallNames[static_cast<int>(call)];
  where_ = place.communicator->name();
  rank_ = place.communicator->rank();
  size_ = place.communicator->size();
  world_ranks_ = place.world_ranks;
  wire_->comm = *static_cast<const MPI_Comm*>(place.comm);
  tag_ = kFirstCallTag + static_cast<int>(number % kCallTags) * kKinds + static_cast<int>(call);
  bytes_ = 0;
  then_ = Then::kNothing;
  done_ = false;
}

void MpiOperation::broadcast(Buffer data, int root) {
  const int place = (rank_ - root + size_) % size_;  // in the tree, whose root is 0
  int step = 1;
  while (step < size_ && (place & step) == 0) step *= 2;
  if (place != 0) receive(data.data, data.bytes(), (place - step + root) % size_);
  children_.clear();
  for (step /= 2; step >= 1; step /= 2)
    if (place + step < size_) children_.push_back((place + step + root) % size_);
  then_ = Then::kForward;
  out_ = data;
  if (place == 0) go_on();
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
    if (code != MPI_SUCCESS) fail_broken(code);
    if (all == 0) return false;
    check_sizes();
    wire_->requests.clear();
    wire_->peers.clear();
    wire_->expected.clear();
    go_on();
    done_ = wire_->requests.empty();
  }
  return true;
}

// What follows the messages that have arrived: more messages, or none.
void MpiOperation::go_on() {
  const Then then = std::exchange(then_, Then::kNothing);
  if (then == Then::kForward) {
    for (int child : children_) send(out_.data, out_.bytes(), child);
  } else if (then != Then::kNothing) {
    tree_reduce(out_.data, inputs_, out_.count, out_.dtype, op_);
  }
  if (then != Then::kReduceAndGather) return;
  for (int k = 1; k < size_; ++k) {
    const int from = (rank_ - k + size_) % size_;
    const Buffer slice = slice_of(whole_, from, size_);
    receive(slice.data, slice.bytes(), from);
    send(out_.data, out_.bytes(), (rank_ + k) % size_);
  }
}

// Ends the run, unless somebody who knows the cause does.
void MpiOperation::fail_broken(int code) {
  std::string peers;
  for (size_t i = 0; code == MPI_ERR_IN_STATUS && i < wire_->statuses.size(); ++i) {
    if (wire_->statuses[i].MPI_ERROR == MPI_SUCCESS || wire_->statuses[i].MPI_ERROR == MPI_ERR_PENDING) continue;
    code = wire_->statuses[i].MPI_ERROR;
    peers = " with " + engine_.name_of((*world_ranks_)[static_cast<size_t>(wire_->peers[i])]);
  }
  int kind = MPI_ERR_OTHER;
  MPI_Error_class(code, &kind);
  Patience patience(0, kForTheCause);
  while (kind != MPI_ERR_TRUNCATE && patience.pause())
    if (told_to_end()) engine_.tell_of_end(*this, patience.waited());
  fail(Fault::kComm, "{} of {} bytes on '{}' (rank {} of {}){}: {}", call_, bytes_, where_, rank_, size_, peers,
       text_of(code));
}

// Members whose messages are still to come or to go, ascending.
std::vector<int> MpiOperation::missing() {
  std::vector<int> out;
  for (size_t i = 0; i < wire_->requests.size(); ++i) {
    int flag = 1;
    if (wire_->requests[i] != MPI_REQUEST_NULL) MPI_Request_get_status(wire_->requests[i], &flag, MPI_STATUS_IGNORE);
    if (!flag) out.push_back(wire_->peers[i]);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::string MpiOperation::description() {
  constexpr size_t kListed = 8;
  const std::vector<int> peers = missing();
  std::string text = fmt::format("{} of {} bytes on '{}' (rank {} of {})", call_, bytes_, where_, rank_, size_);
  for (size_t i = 0; i < std::min(peers.size(), kListed); ++i) {
    text += i == 0 ? "; still missing: " : ", ";
    text += engine_.name_of((*world_ranks_)[static_cast<size_t>(peers[i])]);
  }
  if (peers.size() > kListed) text += fmt::format(" and {} more", peers.size() - kListed);
  return text;
}

bool MpiOperation::speaks() {
  const std::vector<int> peers = missing();
  return !peers.empty() && std::count_if(peers.begin(), peers.end(), [&](int peer) { return peer < rank_; }) == rank_;
}

void MpiOperation::wait() {
  Patience patience(bytes_, engine_.deadline);
  while (true) {
    engine_.progress();
    if (done_) return;
    if (told_to_end()) engine_.tell_of_end(*this, patience.waited());
    if (!patience.pause()) give_up(patience.waited());
  }
}

// After the deadline. What is missing is asked before anything else: a peer that was stopped may go on when the run
// ends.
void MpiOperation::give_up(std::chrono::milliseconds waited) {
  const std::string place = engine_.place_of ? engine_.place_of(engine_.world_rank) : "", what = description();
  const bool speaks_here = speaks();
  if (engine_.is_preceded() && speaks_here) engine_.tell_of_end(what, waited);
  engine_.end_run(fmt::format("{}waited {} ms for {}; did a peer hang, or call something else?",
                              place.empty() ? "" : "[" + place + "] ", waited.count(), what));
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

std::string MpiEngine::name_of(int rank) const {
  const std::string place = place_of ? place_of(rank) : "";
  return place.empty() ? fmt::format("rank {}", rank) : fmt::format("rank {} [{}]", rank, place);
}

void MpiEngine::tell_of_end(MpiOperation& waiting, std::chrono::milliseconds waited) {
  const auto now = std::chrono::steady_clock::now();
  if (!told_) told_ = now;
  if (spoke_ || waited < kBeforeTelling || now - *told_ < kBeforeTelling || !waiting.speaks()) return;
  tell_of_end(waiting.description(), waited);
}

void MpiEngine::tell_of_end(const std::string& what, std::chrono::milliseconds waited) {
  if (std::exchange(spoke_, true)) return;
  const std::string line =
      fmt::format("{} is told to end; it has waited {} ms for {}\n", name_of(world_rank), waited.count(), what);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

bool MpiEngine::is_preceded() noexcept {
  if (preceded_) return *preceded_;
  preceded_ = false;
  // From the abort of one rank to the signal to the others passes about a tenth of a second. A rank that does not watch
  // for the signal dies of it here.
  const bool told_before = told_to_end();
  const int delay_ms = world_rank == 0 ? 0 : 300 + std::min(world_rank * 20, 400);
  for (int passed = 0; passed < delay_ms && !*preceded_; passed += 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    preceded_ = !told_before && told_to_end();
  }
  return *preceded_;
}

void MpiEngine::end_run(std::string_view why) noexcept {
  if (is_preceded()) std::_Exit(1);
  std::fprintf(stderr, "rank %d failed: %.*s\n", world_rank, static_cast<int>(why.size()), why.data());
  std::fflush(stderr);
  std::fflush(stdout);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::_Exit(1);
}

}  // namespace automodel::comm

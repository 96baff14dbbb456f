// A communicator of any rank of any world that talks to nobody: each call is told to a recorder and succeeds at once.
// Buffers are neither read nor written (they may have no memory), so planning runs the same code as training.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace automodel::comm {

enum class Call { kAllReduce, kAllGather, kReduceScatter, kBroadcast, kAllToAll, kSend, kReceive, kBarrier };

const char* name_of(Call call);

struct CallRecord {
  Call call;
  std::string axis;  // name of the communicator
  int size;          // ranks in it
  // all_reduce, broadcast: the buffer; all_gather: the result; reduce_scatter: the input; all_to_all: what this rank
  // sends; send, receive: the message; barrier: 0.
  int64_t bytes;
  int peer = -1;  // send, receive

  // Bytes this rank puts on the wire when every rank moves its share directly (the mpi backend's way; a ring moves the
  // same): all_reduce 2 (n-1)/n, all_gather and reduce_scatter (n-1)/n of `bytes`.
  int64_t sent_bytes() const;
};

using Recorder = std::function<void(const CallRecord&)>;

// `recorder` is called in the order of the calls, by every communicator made from this one too.
std::unique_ptr<Communicator> make_planning(int rank, int size, Recorder recorder, std::string name = "world");

// `inner` with a recorder that is told of every call before it is made, also of communicators made from the result:
// what a run really does, in the same words as its plan.
std::unique_ptr<Communicator> make_recording(std::unique_ptr<Communicator> inner, Recorder recorder);

}  // namespace automodel::comm

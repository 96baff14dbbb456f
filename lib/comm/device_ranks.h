// Communicators that send device memory from device to device (NCCL, by way of comm/device_link.h), and host memory as
// before: buffers of the link's device go over its channels, all others over the communicator below.
//
// One channel for all ranks, made from an id that rank 0 sends round; split and partition split it, in the order of the
// calls, which is the same on all ranks; group, which its members alone call, makes one from an id of its own.
// A call on device memory starts in the channel's stream, after what the compute stream was given before it. wait()
// makes the compute stream wait for it, not the host: afterwards the device may use the outputs and change the inputs,
// and the host sees both as it always sees device memory (Allocator::download). ready() is true once the device is
// done. barrier() is of the hosts.
//
// An exchange that both sends and receives is one step of all ranks it names: they make it in the same order as their
// other collective calls on the communicator, as one NCCL group, and tags do not matter. An exchange that only sends or
// only receives is matched by tag: each (sender, receiver, tag) is a lane, with a channel that the two make when they
// first use it. Until that first message is under way on both sides, wait() waits for the peer to start its half. A
// message of a rank to itself goes by way of the host.
//
// Sums are in the library's own order: repeatable for the same ranks on the same machines as far as NCCL is, not the
// canonical order of comm/communicator.h, and bf16 may be rounded at each hop; whether a NaN wins a max or a min is up
// to it too. make_staged (comm/staged.h) keeps both laws.
//
// Errors: as comm/communicator.h. A watch of its own sees to it that no hang outlives the deadline: when the first call
// in a channel does not end in time, or the library reports trouble, it aborts the channels of this rank, so that the
// host returns from whatever waits for the device, and the next call on a communicator throws Error(kComm) that says
// what hung, on which rank and where in the mesh. If there is no next call within a grace, it ends the run from below.
// Several channels work at the same time on one device; each takes some of its multiprocessors while it waits for
// peers.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/device_link.h"

namespace automodel::comm {

struct DeviceRanksOptions {
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  // How long the watch lets the rank's thread go on after it has aborted the channels.
  std::chrono::milliseconds grace = std::chrono::seconds(20);
  // What messages say of this rank's place in the mesh ("pp 0, dp_shard 1"), until set_places says more.
  std::string place{};
};

// Collective. `below` reaches host memory and the link's device (comm/staged.h); both outlive the result and what is
// made from it. Error(kComm) with the library's words where it cannot connect the ranks.
std::unique_ptr<Communicator> make_device_ranks(Communicator& below, DeviceLink& link,
                                                const DeviceRanksOptions& options = {});

}  // namespace automodel::comm

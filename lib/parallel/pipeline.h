// Runs a pipeline schedule: one executor for all of them. A stage says what it does (StageCalls); the executor decides
// when, in the order of the schedule's row of this rank, and moves tensors between stages.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "parallel/schedule.h"
#include "tensor/tensor.h"

namespace automodel::parallel {

struct StageCalls {
  // `input` is undefined on stage 0. Returns what the next stage takes; the last stage's result is dropped.
  std::function<Tensor(int stage, int microbatch, Tensor input)> forward;
  // Work::kBackward or kInput. `dy` is undefined on the last stage. Returns the gradient of the stage's input; stage
  // 0's result is dropped.
  std::function<Tensor(int stage, int microbatch, Tensor dy, Work work)> backward;
  // Work::kWeight.
  std::function<void(int stage, int microbatch)> weights;
  // An empty contiguous tensor to receive into, of the bytes that the other stage sends: the input of `stage`, or
  // (gradient) the dy of its output.
  std::function<Tensor(int stage, int microbatch, bool gradient)> buffer;
};

struct PipelineOptions {
  // Receives under way while an action runs, for the actions after it; 0: a rank asks when it needs. Each holds a
  // buffer besides the microbatches that the schedule keeps alive.
  int receives_ahead = 1;
};

// How a rank spent one run of its schedule, in seconds. What is not busy is bubble and communication.
struct PipelineTimes {
  double total = 0;
  double busy = 0;  // inside the calls
};

// Runs row pp.rank() of `schedule`, which has no fault (timeline.h); every rank of `pp` calls. Tensors between stages
// of one rank are handed over as they are. A sent tensor is held until it is delivered, and at least until the end of
// the action that follows, so that a plan counts it. Messages in flight move on between actions and during waits.
//
// No order of messages can hang: a rank waits for nothing but the tensor that its next action needs, never for a send
// before its row is done.
//
// On the planning backend a rank runs alone: the tensors it would receive are the empty ones of `buffer`.
//
// What a call throws goes through. Transfers in flight are then abandoned (comm::Pending): the caller ends the run and
// uses `pp` no more. Error(kComm) from `pp`; Error(kBug): a call returns no tensor where one is needed, or the schedule
// is one for another number of ranks; Error(kConfig): more stages than message tags.
PipelineTimes run_pipeline(const Schedule& schedule, comm::Communicator& pp, const StageCalls& calls,
                           const PipelineOptions& options = {});

}  // namespace automodel::parallel

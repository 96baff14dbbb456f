// Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): a block runs without
// recording, and once more in the reverse pass. What it keeps in between besides its input is a choice by kind of work.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace automodel::autograd {

// Which results of a block are kept for the second run.
enum class Recall {
  kNothing,
  kRouting,   // the choices of routers
  kSelected,  // every other product, starting with the first, and whatever is dear to make again (Work)
};

// What becomes of a result between the runs.
enum class Fate {
  kKept,
  kMadeAgain,
  kLeftOut  // neither: nobody reads it in the second run
};

struct CheckpointOptions {
  Recall recall = Recall::kNothing;
  // What the block's last product gives reaches its result by sums, dropout and exchanges alone, for whose gradients no
  // value is needed: the second run leaves them out.
  bool ends_in_sum = false;
  // Told of each result after the first run.
  std::function<void(const char* op, Work work, Fate fate)> trace = {};
};

// `block` must give the same numbers both times and may use no Var but its argument. Gathering of parameters belongs
// outside.
Var checkpoint(const Var& x, std::function<Var(const Var&)> block, const CheckpointOptions& options = {});

// The results of the ops of a block, call by call: first run, then second run.
class Recollection {
 public:
  explicit Recollection(const CheckpointOptions& options) : options_(options) {}

  // Forgets what the second run will not read.
  void first_run_ends();
  void start_again();
  // In the second run: fills `values` when the next call need not be made again.
  bool recall(std::span<Tensor> values, Allocator& allocator);
  void made(const char* op, Work work, std::span<const Tensor> values);
  bool keeps(const Tensor& value) const;

 private:
  struct Value {
    Tensor tensor;  // when it is kept
    Shape shape;
    DType dtype = DType::kF32;
    bool defined = false;
  };
  struct Call {
    const char* op = "";
    Work work = Work::kLight;
    Fate fate = Fate::kMadeAgain;
    std::vector<Value> values;
  };

  CheckpointOptions options_;
  std::vector<Call> calls_;
  size_t next_ = 0;
  size_t products_ = 0;
  size_t last_product_ = 0;  // among the calls
  bool again_ = false;
};

}  // namespace automodel::autograd

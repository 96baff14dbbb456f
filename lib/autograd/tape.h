// Reverse-mode differentiation: a linear tape of coarse ops, executed backwards. One tape per stage and microbatch; one
// rank, one thread.
//
// Activations are `Var`, weights are `Param`. Gradients of activations flow through the tape; gradients of weights are
// work that an op hands over with Gradients::wgrad(), done at once or later (Wgrads), always in the order handed over.
// What an op keeps for its backward is declared in `saved`, so it can be counted.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace automodel::autograd {

class Tape;
class Recollection;

// What makes the values of an op, for the choice of what a checkpointed block keeps of them (autograd/checkpoint.h).
enum class Work {
  kProduct,        // a matrix product without bias, or a group of them
  kBiasedProduct,  // one with
  kSummedProduct,  // one of which a rank gets its rows of a sum over ranks
  kAttention,
  kExchange,  // a reduce-scatter or an all-to-all between ranks
  kRouting,   // which experts get a token
  kLight,     // the rest, where it can be left out at a block's end
};
const char* name_of(Work work);

// A weight as the ops see it. `value` is valid while the weight's unit is gathered. `grad` is fp32, of the same shape,
// and holds a sum once `has_grad` is set: the first contribution of a step overwrites it, later ones add.
struct Param {
  Tensor value;
  Tensor grad;
  bool requires_grad = true;
  bool has_grad = false;

  // For a kernel that is about to write into `grad`: whether it must add. Marks the gradient as begun.
  bool begin_grad() {
    bool accumulate = has_grad;
    has_grad = true;
    return accumulate;
  }
};

// An activation. `id` is its place on the tape; -1 when no gradient is wanted for it.
struct Var {
  Tensor value;
  int id = -1;
  Tape* tape = nullptr;
  // How to make `value` again from what its op keeps anyway. A consumer that would save `value` for its backward saves
  // this instead, so cheap results (norms, gated activations) do not occupy memory between the passes. May be empty.
  std::function<Tensor()> remake;
};

// What an op keeps of one of its inputs: the tensor, or the way to make it again.
class Kept {
 public:
  explicit Kept(const Var& v) : remake_(v.remake) {
    if (!remake_) value_ = v.value;
  }
  Tensor get() const { return remake_ ? remake_() : value_; }

 private:
  Tensor value_;
  std::function<Tensor()> remake_;
};

// Where the gradient of an op's input goes.
struct Slot {
  Tensor grad;      // shape and dtype of the input
  bool accumulate;  // true: add to what is there; false: overwrite, the content is unspecified
};

// What an op's backward function sees.
class Gradients {
 public:
  // The gradient of an output; undefined when nothing used that output. It may be overwritten when unique().
  Tensor& dy(int output = 0);
  const Tensor& saved(int i) const;
  // False when the input needs no gradient: the work can be left out.
  bool needed(int input) const;
  // Where to write or add the gradient of an input. Only for needed inputs.
  Slot slot(int input);
  // Hands over a tensor as (a contribution to) the gradient of an input; nothing is copied when it is the first.
  void pass(int input, Tensor gradient);
  // Work that computes gradients of weights.
  void wgrad(std::function<void()> work);
  // Whether such work waits for Tape::run_wgrads().
  bool defers_wgrads() const;
  Allocator& allocator() const;

 private:
  friend class Tape;
  Gradients(Tape& tape, int node) : tape_(tape), node_(node) {}
  Tape& tape_;
  int node_;
};

using Backward = std::function<void(Gradients&)>;

class Tape {
 public:
  enum class Wgrads { kNow, kLater };
  // y += x for two tensors of the same shape; handed in because this room knows no kernels.
  using AddInto = void (*)(Tensor& y, const Tensor& x);

  // With recording off nothing is kept and every Var is without gradient (evaluation).
  Tape(Allocator& allocator, AddInto add, bool recording) : allocator_(allocator), add_(add), recording_(recording) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Allocator& allocator() const { return allocator_; }
  AddInto add() const { return add_; }
  bool recording() const { return recording_; }

  // A value from outside. With `wants_grad`, its gradient can be read by grad() after backward().
  Var input(Tensor value, bool wants_grad = false);

  // Appends an op with one output. `trains`: the op owns a Param that wants a gradient. When neither that holds nor any
  // input wants one, or recording is off, nothing is kept and the result is without gradient.
  Var record(const char* op, Tensor out, std::span<const Var> inputs, bool trains, std::vector<Tensor> saved,
             Backward backward);
  Var record(const char* op, Tensor out, std::initializer_list<Var> inputs, bool trains, std::vector<Tensor> saved,
             Backward backward) {
    return record(op, std::move(out), std::span(inputs.begin(), inputs.size()), trains, std::move(saved),
                  std::move(backward));
  }
  // True when record() would keep the op: lets an op skip computing what only its backward needs.
  bool keeps(std::span<const Var> inputs, bool trains) const;

  // The values of an op: what `make` (which returns a std::array of tensors, undefined ones too) gives, or what a
  // checkpoint kept of the same call in the first run of its block. Values that go into a Var belong here where making
  // them is work or an exchange.
  template <class Make>
  auto made(const char* op, Work work, Make&& make) {
    decltype(make()) values;
    if (recall(values)) return values;
    values = make();
    remember(op, work, values);
    return values;
  }
  // For an op that writes over its input: the input, or a copy when a checkpoint keeps it.
  Tensor writable(const Tensor& value) const;
  void recollect(std::shared_ptr<Recollection> memory) { memory_ = std::move(memory); }

  // `hook` runs when the reverse pass comes back to this point (all later ops done, no earlier one begun).
  void on_reverse(std::function<void()> hook);

  // The reverse pass from `y`, whose gradient is `dy`. With kLater the work of wgrad() waits for run_wgrads().
  // Frees saved tensors and gradients as it goes. Once per tape.
  void backward(const Var& y, Tensor dy, Wgrads when = Wgrads::kNow);
  void run_wgrads();
  // Queues or runs work in the order of the wgrads (for the reduction of a unit's gradients).
  void after_wgrads(std::function<void()> work);

  // The gradient of an input() after backward(); undefined when it has none.
  Tensor grad(const Var& v) const;

  // Bytes that the recorded ops keep for their backward; not counting what checkpoints recall.
  int64_t saved_bytes() const;

 private:
  friend class Gradients;
  struct Value {
    Shape shape;
    DType dtype;
    Tensor grad;
    bool external = false;  // made by input(): its gradient survives the reverse pass
  };
  struct Node {
    const char* op;
    int output = -1;
    std::vector<int> inputs;
    std::vector<Tensor> saved;
    Backward backward;
    std::function<void()> hook;
  };
  int new_value(const Tensor& value, bool external);
  bool recall(std::span<Tensor> values);
  void remember(const char* op, Work work, std::span<const Tensor> values);

  Allocator& allocator_;
  AddInto add_;
  bool recording_;
  Wgrads when_ = Wgrads::kNow;
  std::vector<Value> values_;
  std::vector<Node> nodes_;
  std::vector<std::function<void()>> pending_;
  std::shared_ptr<Recollection> memory_;  // of the checkpointed block that runs on this tape
};

}  // namespace automodel::autograd

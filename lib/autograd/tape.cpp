#include "autograd/tape.h"

#include <algorithm>
#include <utility>

#include "autograd/checkpoint.h"
#include "core/error.h"

namespace automodel::autograd {

Tensor& Gradients::dy(int output) {
  AM_CHECK(output == 0, Fault::kBug, "op '{}' has one output", tape_.nodes_[static_cast<size_t>(node_)].op);
  return tape_.values_[static_cast<size_t>(tape_.nodes_[static_cast<size_t>(node_)].output)].grad;
}

const Tensor& Gradients::saved(int i) const {
  return tape_.nodes_[static_cast<size_t>(node_)].saved.at(static_cast<size_t>(i));
}

bool Gradients::needed(int input) const {
  return tape_.nodes_[static_cast<size_t>(node_)].inputs.at(static_cast<size_t>(input)) >= 0;
}

Slot Gradients::slot(int input) {
  int id = tape_.nodes_[static_cast<size_t>(node_)].inputs.at(static_cast<size_t>(input));
  auto& value = tape_.values_[static_cast<size_t>(id)];
  if (!value.grad.defined()) {
    value.grad = Tensor::empty(value.shape, value.dtype, tape_.allocator_);
    return {value.grad, false};
  }
  // Somebody else reads this memory (a gradient handed on to two inputs): add to a copy.
  if (!value.grad.unique()) value.grad = value.grad.clone();
  return {value.grad, true};
}

void Gradients::pass(int input, Tensor gradient) {
  int id = tape_.nodes_[static_cast<size_t>(node_)].inputs.at(static_cast<size_t>(input));
  if (id < 0) return;
  auto& value = tape_.values_[static_cast<size_t>(id)];
  if (!value.grad.defined()) {
    value.grad = std::move(gradient);
    return;
  }
  Slot to = slot(input);
  tape_.add_(to.grad, gradient);
}

void Gradients::wgrad(std::function<void()> work) {
  tape_.after_wgrads(std::move(work));
}

bool Gradients::defers_wgrads() const {
  return tape_.when_ == Tape::Wgrads::kLater;
}

Allocator& Gradients::allocator() const {
  return tape_.allocator_;
}

int Tape::new_value(const Tensor& value, bool external) {
  values_.push_back({value.shape(), value.dtype(), {}, external});
  return static_cast<int>(values_.size()) - 1;
}

Var Tape::input(Tensor value, bool wants_grad) {
  int id = recording_ && wants_grad ? new_value(value, true) : -1;
  return {std::move(value), id, this, {}};
}

bool Tape::keeps(std::span<const Var> inputs, bool trains) const {
  return recording_ && (trains || std::ranges::any_of(inputs, [](const Var& v) { return v.id >= 0; }));
}

Var Tape::record(const char* op, Tensor out, std::span<const Var> inputs, bool trains, std::vector<Tensor> saved,
                 Backward backward) {
  if (!keeps(inputs, trains)) return {std::move(out), -1, this, {}};
  Node node{op, new_value(out, false), {}, std::move(saved), std::move(backward), {}};
  for (const Var& v : inputs) node.inputs.push_back(v.id);
  int id = node.output;
  nodes_.push_back(std::move(node));
  return {std::move(out), id, this, {}};
}

void Tape::on_reverse(std::function<void()> hook) {
  if (!recording_) return;
  Node node{"marker", -1, {}, {}, {}, std::move(hook)};
  nodes_.push_back(std::move(node));
}

void Tape::backward(const Var& y, Tensor dy, Wgrads when) {
  AM_CHECK(y.id >= 0 && recording_, Fault::kBug, "backward of a value that no gradient was recorded for");
  when_ = when;
  values_[static_cast<size_t>(y.id)].grad = std::move(dy);
  for (int i = static_cast<int>(nodes_.size()) - 1; i >= 0; --i) {
    Node& node = nodes_[static_cast<size_t>(i)];
    if (node.hook) {
      node.hook();
    } else if (values_[static_cast<size_t>(node.output)].grad.defined()) {
      Gradients gradients(*this, i);
      node.backward(gradients);
      values_[static_cast<size_t>(node.output)].grad = {};
    }
    node = {};
  }
  nodes_.clear();
}

void Tape::after_wgrads(std::function<void()> work) {
  if (when_ == Wgrads::kNow)
    work();
  else
    pending_.push_back(std::move(work));
}

void Tape::run_wgrads() {
  // In the order handed over; each is freed as soon as it is done.
  for (auto& work : std::exchange(pending_, {})) {
    work();
    work = {};
  }
}

Tensor Tape::grad(const Var& v) const {
  return v.id < 0 ? Tensor{} : values_[static_cast<size_t>(v.id)].grad;
}

int64_t Tape::saved_bytes() const {
  int64_t total = 0;
  for (const Node& node : nodes_)
    for (const Tensor& t : node.saved)
      if (t.defined()) total += static_cast<int64_t>(t.bytes());
  return total;
}

bool Tape::recall(std::span<Tensor> values) {
  return memory_ && memory_->recall(values, allocator_);
}

void Tape::remember(const char* op, Work work, std::span<const Tensor> values) {
  if (memory_) memory_->made(op, work, values);
}

Tensor Tape::writable(const Tensor& value) const {
  return memory_ && memory_->keeps(value) ? value.clone() : value;
}

const char* name_of(Work work) {
  switch (work) {
    case Work::kProduct:
      return "product";
    case Work::kBiasedProduct:
      return "product with bias";
    case Work::kSummedProduct:
      return "product and exchange";
    case Work::kAttention:
      return "attention";
    case Work::kExchange:
      return "exchange";
    case Work::kRouting:
      return "routing";
    case Work::kLight:
      return "light";
  }
  return "?";
}

}  // namespace automodel::autograd

#include "autograd/checkpoint.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/error.h"

namespace automodel::autograd {

void Recollection::made(const char* op, Work work, std::span<const Tensor> values) {
  if (again_) return;
  if (work == Work::kProduct || work == Work::kBiasedProduct || work == Work::kSummedProduct)
    last_product_ = calls_.size();
  // A router is a product too.
  bool counted = work == Work::kProduct || work == Work::kSummedProduct || work == Work::kRouting;
  bool odd = counted && ++products_ % 2 == 1;
  bool kept = false;
  switch (options_.recall) {
    case Recall::kNothing:
      break;
    case Recall::kRouting:
      kept = work == Work::kRouting;
      break;
    case Recall::kSelected:
      kept = odd || (work != Work::kProduct && work != Work::kLight);
      break;
  }
  Call call{op, work, kept ? Fate::kKept : Fate::kMadeAgain, {}};
  for (const Tensor& t : values) {
    if (!t.defined())
      call.values.emplace_back();
    else
      call.values.push_back({kept ? t : Tensor{}, t.shape(), t.dtype(), true});
  }
  calls_.push_back(std::move(call));
}

void Recollection::start_again() {
  next_ = 0;
  again_ = true;
}

void Recollection::first_run_ends() {
  for (size_t i = last_product_; options_.ends_in_sum && i < calls_.size(); ++i) {
    calls_[i].fate = Fate::kLeftOut;
    for (Value& value : calls_[i].values) value.tensor = {};
  }
  if (!options_.trace) return;
  for (const Call& call : calls_) options_.trace(call.op, call.work, call.fate);
}

bool Recollection::recall(std::span<Tensor> values, Allocator& allocator) {
  if (!again_) return false;
  size_t index = next_++;
  AM_CHECK(index < calls_.size(), Fault::kBug, "a checkpointed block does more in its second run than in its first");
  Call& call = calls_[index];
  if (call.fate == Fate::kMadeAgain) return false;
  for (size_t i = 0; i < values.size(); ++i) {
    Value& value = call.values[i];
    if (!value.defined) continue;
    values[i] =
        call.fate == Fate::kKept ? std::exchange(value.tensor, {}) : Tensor::empty(value.shape, value.dtype, allocator);
  }
  return true;
}

bool Recollection::keeps(const Tensor& value) const {
  return !again_ && std::ranges::any_of(calls_, [&](const Call& call) {
    return std::ranges::any_of(
        call.values, [&](const Value& v) { return v.tensor.defined() && v.tensor.shares_memory_with(value); });
  });
}

Var checkpoint(const Var& x, std::function<Var(const Var&)> block, const CheckpointOptions& options) {
  Tape& outer = *x.tape;
  auto memory = std::make_shared<Recollection>(options);
  Tape quiet(outer.allocator(), outer.add(), false);
  quiet.recollect(memory);
  Tensor out = block(quiet.input(x.value)).value;
  memory->first_run_ends();
  return outer.record("checkpoint", std::move(out), {x}, true, {x.value}, [block, memory, &outer](Gradients& g) {
    // The inner tape lives on while its weight gradients wait.
    auto inner = std::make_shared<Tape>(outer.allocator(), outer.add(), true);
    memory->start_again();
    inner->recollect(memory);
    Var again = inner->input(g.saved(0), g.needed(0));
    Var y = block(again);
    // What weight gradients need is freed early where they need not wait.
    inner->backward(y, g.dy(), g.defers_wgrads() ? Tape::Wgrads::kLater : Tape::Wgrads::kNow);
    if (Tensor dx = inner->grad(again); dx.defined()) g.pass(0, std::move(dx));
    if (g.defers_wgrads()) g.wgrad([inner] { inner->run_wgrads(); });
  });
}

}  // namespace automodel::autograd

#include "ops/pointwise.h"

#include "core/error.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Param;
using autograd::Tape;
using autograd::Var;

void add_into(Tensor& y, const Tensor& x) {
  kernels(y.device()).add(y, y, x);
}

Var add(const Var& a, const Var& b) {
  AM_CHECK(a.value.shape() == b.value.shape() && a.value.dtype() == b.value.dtype(), Fault::kShape,
           "add: {} {} and {} {}", name_of(a.value.dtype()), a.value.shape().str(), name_of(b.value.dtype()),
           b.value.shape().str());
  Tensor y = Tensor::empty(a.value.shape(), a.value.dtype(), a.tape->allocator());
  kernels(y.device()).add(y, a.value, b.value);
  return a.tape->record("add", std::move(y), {a, b}, false, {}, [](Gradients& g) {
    Tensor dy = std::move(g.dy());
    g.pass(0, dy);
    g.pass(1, std::move(dy));
  });
}

Var gated(const Var& gate_up, Activation act) {
  const Kernels& k = kernels(gate_up.value.device());
  auto forward = [x = gate_up.value, act, &k, allocator = &gate_up.tape->allocator()] {
    Tensor y = Tensor::empty({x.rows(), x.cols() / 2}, x.dtype(), *allocator);
    k.gated_forward(y, x, act);
    return y;
  };
  Var out = gate_up.tape->record("gated", forward(), {gate_up}, false, {gate_up.value}, [act, &k](Gradients& g) {
    Tensor d = Tensor::empty(g.saved(0).shape(), g.saved(0).dtype(), g.allocator());
    k.gated_backward(d, g.dy(), g.saved(0), act);
    g.pass(0, std::move(d));
  });
  if (out.id >= 0) out.remake = forward;
  return out;
}

Var activation(const Var& x, Activation act) {
  const Kernels& k = kernels(x.value.device());
  auto forward = [x = x.value, act, &k, allocator = &x.tape->allocator()] {
    Tensor y = Tensor::empty(x.shape(), x.dtype(), *allocator);
    k.activation_forward(y, x, act);
    return y;
  };
  Var out = x.tape->record("activation", forward(), {x}, false, {x.value}, [act, &k](Gradients& g) {
    Tensor d = std::move(g.dy());
    if (!d.unique()) d = d.clone();
    k.activation_backward(d, d, g.saved(0), act);
    g.pass(0, std::move(d));
  });
  if (out.id >= 0) out.remake = forward;
  return out;
}

Var dropout(const Var& x, const DropoutArgs& args) {
  int64_t samples = args.samples->numel();
  bool fits = args.places != nullptr ? args.places->rows() == x.value.rows()
              : samples == 0         ? x.value.rows() == 0
                                     : x.value.rows() % samples == 0;
  AM_CHECK(fits, Fault::kShape, "dropout: x has shape {} for {} samples", x.value.shape().str(), samples);
  const Kernels& k = kernels(x.value.device());
  Tensor y = x.tape->writable(x.value);
  k.dropout(y, y, args);
  return x.tape->record(
      "dropout", y, {x}, false, {},
      [args, samples = *args.samples, &k, places = args.places ? *args.places : Tensor{}](Gradients& g) {
        DropoutArgs again = args;
        again.samples = &samples;
        if (args.places != nullptr) again.places = &places;
        Tensor dy = std::move(g.dy());
        Tensor dx = dy.unique() ? dy : Tensor::empty(dy.shape(), dy.dtype(), g.allocator());
        k.dropout(dx, dy, again);
        g.pass(0, std::move(dx));
      });
}

Var embedding(Tape& tape, const Tensor& ids, Param& table, int64_t first) {
  const Kernels& k = kernels(table.value.device());
  Tensor y = Tensor::empty({ids.numel(), table.value.size(1)}, table.value.dtype(), tape.allocator());
  k.embedding_forward(y, ids, table.value, first);
  return tape.record("embedding", std::move(y), {}, table.requires_grad, {ids}, [&table, first, &k](Gradients& g) {
    g.wgrad([&table, first, &k, ids = g.saved(0), dy = g.dy()] {
      k.embedding_backward(table.grad, dy, ids, first, table.begin_grad());
    });
  });
}

}  // namespace automodel::ops

// The router's weights multiply what goes into `down`, not what comes out of it: the result is the same, and the
// gradient of a weight is then an inner product of what the backward has anyway, so outputs of experts are never kept.
// Between the passes there remain the inputs of the gated activation and, where they came from other ranks, of the
// experts.
#include "ops/moe.h"

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/buffer.h"
#include "ops/expert_exchange.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Kept;
using autograd::Slot;
using autograd::Var;
using autograd::Work;

namespace {

Tensor column(const Tensor& x) {
  return x.view({x.numel(), 1});
}

// Points into both.
RouteArgs route_args(const Router& router, const RoutedRows& rows) {
  return {.renormalise = router.renormalise,
          .bias = router.bias.defined() ? &router.bias : nullptr,
          .real = rows.real.defined() ? &rows.real : nullptr,
          .tokens = rows.count,
          .first = rows.first,
          .sequence = rows.sequence};
}

// The gradient of the balance loss with respect to the probabilities of each token of a sample; undefined: none.
Tensor balance_gradient(Routing& routing, const Tensor& probs, const Router& router, const RoutedRows& rows,
                        const Balance& balance) {
  const Kernels& k = kernels(probs.device());
  Allocator& allocator = *probs.allocator();
  RouteArgs args = route_args(router, rows);
  int64_t n = probs.cols();
  Tensor sums = Tensor::empty({rows.samples, 2 * n + 2}, DType::kF64, allocator, MemoryClass::kWorkspace);
  k.route_sums(sums, probs, routing.experts, balance.labels, args);
  for (comm::Communicator* ranks : balance.sharing)
    if (ranks != nullptr) ranks->all_reduce(buffer_of(sums), comm::Reduce::kSum);
  routing.balance = Tensor::empty({rows.samples}, DType::kF32, allocator);
  Tensor dprobs = Tensor::empty({rows.samples, n}, DType::kF32, allocator);
  k.balance_loss(routing.balance, dprobs, sums, router.top_k, balance.scale);
  return dprobs;
}

// What the passes over the experts share.
struct ExpertsPass {
  ExpertsPass(const Routing& routing, std::span<const Expert> own, const ExpertsArgs& args, Allocator& a)
      : trip(routing.counts, routing.all_copies, args.ranks, a),
        own(own.begin(), own.end()),
        act(args.activation),
        allocator(a),
        slots(routing.slots),
        tokens(routing.tokens.narrow(0, trip.home_rows())),
        copies(routing.copies.narrow(0, trip.home_rows())) {}

  // f(expert, first row, rows) for each expert that has any.
  template <class F>
  void each(F&& f) const {
    for (size_t e = 0; e < own.size(); ++e)
      if (Interval rows = trip.rows(static_cast<int64_t>(e)); rows.size() > 0) f(own[e], rows.begin, rows.size());
  }
  // A copy of its row for each choice, where the experts are.
  Tensor spread(const Tensor& x) const { return trip.to_experts(picked_rows(x, tokens, allocator)); }
  Tensor inner(const Tensor& gate_up) const {
    Tensor y = Tensor::empty({gate_up.rows(), gate_up.cols() / 2}, gate_up.dtype(), allocator);
    kernels(y.device()).gated_forward(y, gate_up, act);
    return y;
  }

  ExpertExchange trip;
  std::vector<Expert> own;
  Activation act;
  Allocator& allocator;
  Tensor slots, tokens, copies;
};

bool wants_gradient(const Projection& p) {
  return p.weight->requires_grad || (p.bias != nullptr && p.bias->requires_grad);
}

// The reverse of the products. `scales` f32 [R, 1], gate_up [R, 2F] (overwritten), `in` gives the inputs [R, D].
void backward_experts(Gradients& g, const std::shared_ptr<ExpertsPass>& work, const Tensor& scales,
                      const Tensor& gate_up, std::function<Tensor()> in) {
  const Kernels& k = kernels(gate_up.device());
  Tensor d = work->spread(g.dy());
  Tensor inner = work->inner(gate_up);
  Tensor dinner = Tensor::empty(inner.shape(), inner.dtype(), work->allocator);
  work->each([&](const Expert& e, int64_t at, int64_t rows) {
    project_gradient({dinner.narrow(at, rows), false}, d.narrow(at, rows), {&e.down, 1});
  });
  if (g.needed(1)) {
    Tensor dscales = Tensor::empty(scales.shape(), DType::kF32, work->allocator);
    k.row_products(dscales, dinner, inner);
    Tensor home = work->trip.to_home(dscales);
    g.pass(1, picked_rows(home, work->slots, work->allocator).view(work->slots.shape()));
  }
  k.scale_rows(dinner, dinner, scales);
  k.scale_rows(inner, inner, scales);
  k.gated_backward(gate_up, dinner, gate_up, work->act);
  if (g.needed(0)) {
    Tensor din = Tensor::empty(d.shape(), d.dtype(), work->allocator);
    work->each([&](const Expert& e, int64_t at, int64_t rows) {
      project_gradient({din.narrow(at, rows), false}, gate_up.narrow(at, rows), e.gate_up);
    });
    Tensor home = work->trip.to_home(din);
    Slot dx = g.slot(0);
    k.sum_copies(dx.grad, home, work->slots, dx.accumulate);
  }
  if (!in) return;
  g.wgrad([work, in = std::move(in), d, inner, gate_up] {
    Tensor x = in();
    work->each([&](const Expert& e, int64_t at, int64_t rows) {
      weight_gradients(x.narrow(at, rows), gate_up.narrow(at, rows), e.gate_up);
      weight_gradients(inner.narrow(at, rows), d.narrow(at, rows), {&e.down, 1});
    });
  });
}

// What ranks without all experts send away: the copies of the rows (undefined when they stay here) and their weights.
struct Dispatched {
  Tensor in;      // [R, D]
  Tensor scales;  // f32 [R, 1]
};

Dispatched dispatch(const Var& x, const Tensor& weights, const ExpertsPass& pass) {
  Dispatched d;
  auto scales = [&] { return pass.trip.to_experts(picked_rows(column(weights), pass.copies, pass.allocator)); };
  if (pass.trip.alone()) {
    d.scales = scales();
  } else {
    auto sent = x.tape->made("experts.dispatch", Work::kExchange, [&] {
      return std::array{pass.spread(x.value), scales()};
    });
    d = {sent[0], sent[1]};
  }
  return d;
}

}  // namespace

Routing route(const Var& x, const Router& router, const RoutedRows& rows, const Balance& balance) {
  const Kernels& k = kernels(x.value.device());
  const autograd::Param& weight = *router.weight;
  Allocator& allocator = x.tape->allocator();
  int64_t n = weight.value.size(0), t = x.value.rows();
  AM_CHECK(weight.value.size(1) == x.value.cols() && router.top_k <= n && rows.count <= t, Fault::kShape,
           "route: x has shape {}, the router {} for {} experts of a token; {} rows are tokens", x.value.shape().str(),
           weight.value.shape().str(), router.top_k, rows.count);
  Routing out;
  out.all_copies = (rows.count - rows.padding) * router.top_k;
  auto [probs, weights, chosen] = x.tape->made("route", Work::kRouting, [&] {
    Tensor probs = Tensor::empty({t, n}, DType::kF32, allocator);
    Tensor weights = Tensor::empty({t, router.top_k}, DType::kF32, allocator);
    Tensor chosen = Tensor::empty({t, router.top_k}, DType::kI32, allocator);
    k.matmul(probs, x.value, weight.value, {.transpose_b = true});
    k.route_forward(probs, weights, chosen, probs, route_args(router, rows));
    return std::array{probs, weights, chosen};
  });
  out.experts = chosen;
  out.counts = Tensor::empty({n}, DType::kI32, allocator);
  out.slots = Tensor::empty({t, router.top_k}, DType::kI32, allocator);
  out.copies = Tensor::empty({t * router.top_k}, DType::kI32, allocator);
  out.tokens = Tensor::empty({t * router.top_k}, DType::kI32, allocator);
  k.order_copies(out.counts, out.slots, out.copies, out.tokens, out.experts);
  if (!x.tape->keeps({&x, 1}, weight.requires_grad)) {
    out.weights = {std::move(weights), -1, x.tape, {}};
    return out;
  }
  Tensor dprobs = balance.scale != 0 ? balance_gradient(out, probs, router, rows, balance) : Tensor{};
  Projection projection{router.weight};
  out.weights =
      x.tape->record("route", std::move(weights), {x}, weight.requires_grad,
                     {probs, out.experts, dprobs, x.remake ? Tensor{} : x.value},
                     [router, rows, projection, kept = Kept(x), type = x.value.dtype(), &k](Gradients& g) {
                       Tensor d = Tensor::empty(g.saved(0).shape(), DType::kF32, g.allocator());
                       k.route_backward(d, g.dy(), g.saved(2), g.saved(0), g.saved(1), route_args(router, rows));
                       if (type != DType::kF32) {
                         Tensor rounded = Tensor::empty(d.shape(), type, g.allocator());
                         k.cast(rounded, d);
                         d = rounded;
                       }
                       if (g.needed(0)) project_gradient(g.slot(0), d, {&projection, 1});
                       if (projection.weight->requires_grad)
                         g.wgrad([projection, kept, d] { weight_gradients(kept.get(), d, {&projection, 1}); });
                     });
  return out;
}

Var experts(const Var& x, const Routing& routing, std::span<const Expert> own, const ExpertsArgs& args) {
  int64_t sharing = args.ranks == nullptr ? 1 : args.ranks->size();
  AM_CHECK(static_cast<int64_t>(own.size()) * sharing == routing.counts.numel(), Fault::kBug,
           "{} experts are not {} for each of {} ranks", routing.counts.numel(), own.size(), sharing);
  const Kernels& k = kernels(x.value.device());
  Allocator& allocator = x.tape->allocator();
  auto work = std::make_shared<ExpertsPass>(routing, own, args, allocator);
  const Tensor& down = own[0].down.weight->value;
  Work way = work->trip.alone() ? Work::kLight : Work::kExchange;
  int64_t copies = work->trip.here_rows(), width = x.value.cols(), inner_width = down.size(1);
  AM_CHECK(down.size(0) == width, Fault::kShape, "experts: the input is {} wide, the weight of the result has shape {}",
           width, down.shape().str());

  Dispatched d = dispatch(x, routing.weights.value, *work);
  auto [gate_up] = x.tape->made("experts.gate_up", Work::kProduct, [&] {
    Tensor rows = d.in.defined() ? d.in : work->spread(x.value);
    Tensor y = Tensor::empty({copies, 2 * inner_width}, x.value.dtype(), allocator);
    work->each([&](const Expert& e, int64_t at, int64_t n) {
      project(y.narrow(at, n), rows.narrow(at, n), e.gate_up, args.alike);
    });
    return std::array{y};
  });
  auto [out] = x.tape->made("experts.down", Work::kProduct, [&, gate_up = gate_up] {
    Tensor inner = work->inner(gate_up);
    k.scale_rows(inner, inner, d.scales);
    Tensor y = Tensor::empty({copies, width}, x.value.dtype(), allocator);
    work->each([&](const Expert& e, int64_t at, int64_t n) {
      project(y.narrow(at, n), inner.narrow(at, n), {&e.down, 1}, args.alike);
    });
    return std::array{y};
  });
  auto [home] = x.tape->made("experts.combine", way, [&, out = out] { return std::array{work->trip.to_home(out)}; });
  Tensor y = Tensor::empty(x.value.shape(), x.value.dtype(), allocator);
  k.sum_copies(y, home, routing.slots, false);

  bool trains = false;
  for (const Expert& e : own)
    for (const Projection& p : {e.gate_up[0], e.gate_up[1], e.down}) trains |= wants_gradient(p);
  std::vector<Tensor> saved{gate_up, d.scales, routing.slots, routing.tokens, routing.copies};
  std::function<Tensor()> inputs;
  if (trains && work->trip.alone()) {
    if (!x.remake) saved.push_back(x.value);
    inputs = [work, kept = Kept(x)] { return work->spread(kept.get()); };
  } else if (trains) {
    saved.push_back(d.in);
    inputs = [in = d.in] { return in; };
  }
  return x.tape->record(
      "experts", std::move(y), {x, routing.weights}, trains, std::move(saved),
      [work, inputs = std::move(inputs)](Gradients& g) { backward_experts(g, work, g.saved(1), g.saved(0), inputs); });
}

}  // namespace automodel::ops

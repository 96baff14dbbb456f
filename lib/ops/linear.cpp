#include "ops/linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Kept;
using autograd::Param;
using autograd::Slot;
using autograd::Var;

namespace {

int64_t outs(const Projection& p) {
  return p.weight->value.size(p.in_out ? 1 : 0);
}
int64_t ins(const Projection& p) {
  return p.weight->value.size(p.in_out ? 0 : 1);
}

bool follows(const Tensor& a, const Tensor& b) {
  return a.raw() != nullptr && static_cast<std::byte*>(a.raw()) + a.bytes() == b.raw();
}

// All weights (or all their gradients) as one [sum of outs, in] matrix; undefined when they are not one after the
// other.
template <class Member>
Tensor joined(std::span<const Projection> ps, Member member) {
  const Tensor& first = ps[0].weight->*member;
  if (ps.size() == 1) return first;
  int64_t rows = 0;
  for (size_t i = 0; i < ps.size(); ++i) {
    const Tensor& t = ps[i].weight->*member;
    if (ps[i].in_out || ps[i].bias != nullptr || !t.defined()) return {};
    if (i > 0 && !follows(ps[i - 1].weight->*member, t)) return {};
    rows += t.size(0);
  }
  return Tensor::wrap(first.raw(), {rows, first.size(1)}, first.dtype(), first.device());
}

// For a single row there is a faster kernel, which rounds otherwise.
auto product_kernel(const Tensor& x, bool alike) {
  const Kernels& k = kernels(x.device());
  return x.rows() == 1 && !alike ? k.matmul_row : k.matmul;
}

void project_each(const Tensor& y, const Tensor& x, std::span<const Projection> ps, bool alike) {
  int64_t column = 0;
  for (const Projection& p : ps) {
    const Tensor* bias = p.bias != nullptr && p.adds_bias ? &p.bias->value : nullptr;
    product_kernel(x, alike)(y.columns(column, outs(p)), x, p.weight->value, {.transpose_b = !p.in_out, .bias = bias});
    column += outs(p);
  }
}

}  // namespace

void project(const Tensor& y, const Tensor& x, std::span<const Projection> ps, bool alike) {
  if (Tensor w = joined(ps, &Param::value); ps.size() > 1 && w.defined())
    product_kernel(x, alike)(y, x, w, {.transpose_b = true});
  else
    project_each(y, x, ps, alike);
}

void project_gradient(const Slot& to, const Tensor& dy, std::span<const Projection> ps) {
  const Kernels& k = kernels(dy.device());
  if (Tensor w = joined(ps, &Param::value); w.defined() && !ps[0].in_out) {
    k.matmul(to.grad, dy, w, {.accumulate = to.accumulate});
    return;
  }
  int64_t column = 0;
  bool accumulate = to.accumulate;
  for (const Projection& p : ps) {
    k.matmul(to.grad, dy.columns(column, outs(p)), p.weight->value,
             {.transpose_b = p.in_out, .accumulate = accumulate});
    accumulate = true;
    column += outs(p);
  }
}

void weight_gradients(const Tensor& x, const Tensor& dy, std::span<const Projection> ps) {
  const Kernels& k = kernels(dy.device());
  bool same = std::ranges::all_of(
      ps, [&](const Projection& p) { return p.weight->requires_grad && p.weight->has_grad == ps[0].weight->has_grad; });
  if (Tensor dw = joined(ps, &Param::grad); same && ps.size() > 1 && dw.defined()) {
    bool accumulate = false;
    for (const Projection& p : ps) accumulate = p.weight->begin_grad();
    k.matmul(dw, dy, x, {.transpose_a = true, .accumulate = accumulate});
    return;
  }
  int64_t column = 0;
  for (const Projection& p : ps) {
    Tensor part = dy.columns(column, outs(p));
    column += outs(p);
    if (p.bias != nullptr && p.bias->requires_grad) k.sum_rows(p.bias->grad, part, p.bias->begin_grad());
    if (!p.weight->requires_grad) continue;
    if (p.in_out)
      k.matmul(p.weight->grad, x, part, {.transpose_a = true, .accumulate = p.weight->begin_grad()});
    else
      k.matmul(p.weight->grad, part, x, {.transpose_a = true, .accumulate = p.weight->begin_grad()});
  }
}

void product(const Tensor& y, const Tensor& x, const Tensor& w, const MatmulArgs& args) {
  product_kernel(x, false)(y, x, w, args);
}

Joint joint_of(const Tensor& x, std::span<const Projection> projections) {
  Joint out;
  for (const Projection& p : projections) {
    AM_CHECK(ins(p) == x.cols(), Fault::kShape, "linear: the input is {} wide, the weight {} expects {}", x.cols(),
             p.weight->value.shape().str(), ins(p));
    out.width += outs(p);
    out.biased |= p.bias != nullptr;
    out.trains_weight |= p.weight->requires_grad;
    out.trains |= p.weight->requires_grad || (p.bias != nullptr && p.bias->requires_grad);
  }
  return out;
}

Var linear(const Var& x, std::span<const Projection> projections) {
  const Joint joint = joint_of(x.value, projections);
  const bool trains = joint.trains, trains_weight = joint.trains_weight;
  auto [y] = x.tape->made("linear", joint.work(), [&] {
    Tensor y = Tensor::empty({x.value.rows(), joint.width}, x.value.dtype(), x.tape->allocator());
    project(y, x.value, projections);
    return std::array{y};
  });

  if (!x.tape->keeps({&x, 1}, trains)) return {std::move(y), -1, x.tape, {}};
  std::vector<Tensor> saved;
  if (trains_weight && !x.remake) saved.push_back(x.value);
  auto remake = trains_weight ? x.remake : nullptr;
  std::vector<Projection> ps(projections.begin(), projections.end());
  return x.tape->record("linear", std::move(y), {x}, trains, std::move(saved),
                        [ps = std::move(ps), remake, trains = trains, trains_weight = trains_weight](Gradients& g) {
                          if (g.needed(0)) project_gradient(g.slot(0), g.dy(), ps);
                          if (!trains) return;
                          Tensor x = trains_weight && !remake ? g.saved(0) : Tensor{};
                          g.wgrad([ps, remake, x, dy = g.dy()] { weight_gradients(remake ? remake() : x, dy, ps); });
                        });
}

}  // namespace automodel::ops

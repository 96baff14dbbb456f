#include "ops/norm.h"

#include "core/error.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Param;
using autograd::Slot;
using autograd::Var;

namespace {

// The gradient of a weight, or undefined when it is not wanted.
Tensor wanted(const Param& p) {
  return p.requires_grad ? p.grad : Tensor{};
}

void check_width(const char* op, const Var& x, const Param& weight) {
  AM_CHECK(weight.value.numel() == x.value.cols(), Fault::kShape,
           "{}: the input is {} wide, the weight has {} elements", op, x.value.cols(), weight.value.numel());
}

}  // namespace

Var rms_norm(const Var& x, Param& weight, float eps) {
  check_width("rms_norm", x, weight);
  const Kernels& k = kernels(x.value.device());
  Tensor y = Tensor::empty(x.value.shape(), x.value.dtype(), x.tape->allocator());
  Tensor rstd = Tensor::empty({x.value.rows()}, DType::kF32, x.tape->allocator());
  k.rms_norm_forward(y, rstd, x.value, weight.value, eps);

  Var out = x.tape->record("rms_norm", y, {x}, weight.requires_grad, {x.value, rstd}, [&weight, &k](Gradients& g) {
    bool accumulate_dw = weight.requires_grad && weight.begin_grad();
    if (g.needed(0)) {
      Slot to = g.slot(0);
      k.rms_norm_backward(to.grad, to.accumulate, wanted(weight), accumulate_dw, g.dy(), g.saved(0), g.saved(1),
                          weight.value);
    } else {
      Tensor unused = Tensor::empty(g.dy().shape(), g.dy().dtype(), g.allocator());
      k.rms_norm_backward(unused, false, wanted(weight), accumulate_dw, g.dy(), g.saved(0), g.saved(1), weight.value);
    }
  });
  if (out.id >= 0)
    out.remake = [x = x.value, &weight, eps, &k, allocator = &x.tape->allocator()] {
      Tensor again = Tensor::empty(x.shape(), x.dtype(), *allocator);
      Tensor rstd = Tensor::empty({x.rows()}, DType::kF32, *allocator);
      k.rms_norm_forward(again, rstd, x, weight.value, eps);
      return again;
    };
  return out;
}

Var layer_norm(const Var& x, Param& weight, Param& bias, float eps) {
  check_width("layer_norm", x, weight);
  const Kernels& k = kernels(x.value.device());
  Allocator& allocator = x.tape->allocator();
  Tensor y = Tensor::empty(x.value.shape(), x.value.dtype(), allocator);
  Tensor mean = Tensor::empty({x.value.rows()}, DType::kF32, allocator);
  Tensor rstd = Tensor::empty({x.value.rows()}, DType::kF32, allocator);
  k.layer_norm_forward(y, mean, rstd, x.value, weight.value, bias.value, eps);

  bool trains = weight.requires_grad || bias.requires_grad;
  Var out = x.tape->record("layer_norm", y, {x}, trains, {x.value, mean, rstd}, [&weight, &bias, &k](Gradients& g) {
    bool accumulate_dw = weight.requires_grad && weight.begin_grad();
    if (bias.requires_grad) bias.begin_grad();
    bool needed = g.needed(0);
    Slot to = needed ? g.slot(0) : Slot{Tensor::empty(g.dy().shape(), g.dy().dtype(), g.allocator()), false};
    k.layer_norm_backward(to.grad, to.accumulate, wanted(weight), wanted(bias), accumulate_dw, g.dy(), g.saved(0),
                          g.saved(1), g.saved(2), weight.value);
  });
  if (out.id >= 0)
    out.remake = [x = x.value, &weight, &bias, eps, &k, allocator = &allocator] {
      Tensor again = Tensor::empty(x.shape(), x.dtype(), *allocator);
      Tensor mean = Tensor::empty({x.rows()}, DType::kF32, *allocator);
      Tensor rstd = Tensor::empty({x.rows()}, DType::kF32, *allocator);
      k.layer_norm_forward(again, mean, rstd, x, weight.value, bias.value, eps);
      return again;
    };
  return out;
}

Var head_norm(const Var& qkv, Param& query_weight, Param& key_weight, const HeadLayout& layout, float eps) {
  const Kernels& k = kernels(qkv.value.device());
  Allocator& allocator = qkv.tape->allocator();
  int64_t tokens = qkv.value.rows();
  int64_t key_begin = layout.heads * layout.head_dim;
  auto make = [&](int64_t columns, DType dtype) { return Tensor::empty({tokens, columns}, dtype, allocator); };
  Tensor q_before = make(layout.heads * layout.head_dim, qkv.value.dtype());
  Tensor k_before = make(layout.kv_heads * layout.head_dim, qkv.value.dtype());
  Tensor q_rstd = make(layout.heads, DType::kF32);
  Tensor k_rstd = make(layout.kv_heads, DType::kF32);
  Tensor normed = qkv.tape->writable(qkv.value);
  k.head_norm_forward(normed, q_before, q_rstd, query_weight.value, 0, eps);
  k.head_norm_forward(normed, k_before, k_rstd, key_weight.value, key_begin, eps);

  bool trains = query_weight.requires_grad || key_weight.requires_grad;
  return qkv.tape->record(
      "head_norm", normed, {qkv}, trains, {q_before, q_rstd, k_before, k_rstd},
      [&query_weight, &key_weight, key_begin, &k](Gradients& g) {
        Tensor dx = std::move(g.dy());
        if (!dx.unique()) dx = dx.clone();
        bool accumulate_q = query_weight.requires_grad && query_weight.begin_grad();
        bool accumulate_k = key_weight.requires_grad && key_weight.begin_grad();
        k.head_norm_backward(dx, wanted(query_weight), accumulate_q, g.saved(0), g.saved(1), query_weight.value, 0);
        k.head_norm_backward(dx, wanted(key_weight), accumulate_k, g.saved(2), g.saved(3), key_weight.value, key_begin);
        g.pass(0, std::move(dx));
      });
}

}  // namespace automodel::ops

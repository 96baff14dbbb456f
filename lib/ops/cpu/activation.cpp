// Activations, alone and gated (SwiGLU and its kin: Shazeer, "GLU variants improve Transformer", 2020). The backward
// recomputes the forward from its input, so that nothing but the input is kept.
#include "ops/cpu/loops.h"

namespace automodel::ops::cpu::AUTOMODEL_ISA {
namespace {

struct Pair {
  VecF value, slope;
};

struct Silu {
  static AM_INLINE VecF value(VecF x) { return x * sigmoid(x); }
  static AM_INLINE Pair both(VecF x) {
    VecF s = sigmoid(x);
    VecF y = x * s;
    return {y, s + y * (1.0f - s)};
  }
};

struct Gelu {
  static AM_INLINE VecF value(VecF x) { return x * normal(x).cdf; }
  static AM_INLINE Pair both(VecF x) {
    Normal at = normal(x);
    return {x * at.cdf, at.cdf + x * at.pdf};
  }
};

// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), written as x sigmoid(2 u).
struct GeluTanh {
  static constexpr float kTwoRoots = 1.5957691216f, kCube = 0.044715f;
  static AM_INLINE VecF value(VecF x) { return x * sigmoid(kTwoRoots * (x + kCube * x * x * x)); }
  static AM_INLINE Pair both(VecF x) {
    VecF s = sigmoid(kTwoRoots * (x + kCube * x * x * x));
    VecF y = x * s;
    return {y, s + y * (1.0f - s) * (kTwoRoots * (1.0f + 3.0f * kCube * x * x))};
  }
};

struct Relu {
  static AM_INLINE VecF value(VecF x) { return x < 0.0f ? VecF{} : x; }
  static AM_INLINE Pair both(VecF x) { return {value(x), x > 0.0f ? all(1.0f) : VecF{}}; }
};

template <class F>
AM_INLINE void with_activation(Activation act, F&& f) {
  switch (act) {
    case Activation::kSilu:
      return f(Silu{});
    case Activation::kGelu:
      return f(Gelu{});
    case Activation::kGeluTanh:
      return f(GeluTanh{});
    case Activation::kRelu:
      return f(Relu{});
  }
}

}  // namespace

void gated_forward(const Tensor& y, const Tensor& gate_up, Activation act) {
  int64_t width = y.cols();
  with_activation(act, [&](auto kind) {
    with_type(y, [&](auto tag) {
      using T = decltype(tag);
      T* to = ptr<T>(y);
      const T* from = ptr<T>(gate_up);
      for_rows(y.rows(), width, [&](int64_t row) {
        const T* gate = from + row * 2 * width;
        const T* up = gate + width;
        for_vectors(0, width, [&](int64_t i, int64_t n) {
          store_n(to + row * width + i, kind.value(load_n(gate + i, n)) * load_n(up + i, n), n);
        });
      });
    });
  });
}

void gated_backward(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, Activation act) {
  int64_t width = dy.cols();
  with_activation(act, [&](auto kind) {
    with_type(dy, [&](auto tag) {
      using T = decltype(tag);
      T* to = ptr<T>(dgate_up);
      const T* from = ptr<T>(gate_up);
      const T* above = ptr<T>(dy);
      for_rows(dy.rows(), width, [&](int64_t row) {
        int64_t gate = row * 2 * width, up = gate + width;
        for_vectors(0, width, [&](int64_t i, int64_t n) {
          VecF d = load_n(above + row * width + i, n);
          Pair at = kind.both(load_n(from + gate + i, n));
          VecF other = load_n(from + up + i, n);
          store_n(to + gate + i, d * other * at.slope, n);
          store_n(to + up + i, d * at.value, n);
        });
      });
    });
  });
}

void activation_forward(const Tensor& y, const Tensor& x, Activation act) {
  with_activation(act, [&](auto kind) {
    with_type(y, [&](auto tag) {
      using T = decltype(tag);
      T* to = ptr<T>(y);
      const T* from = ptr<T>(x);
      for_blocks(y.numel(), [&](int64_t begin, int64_t end) {
        for_vectors(begin, end, [&](int64_t i, int64_t n) { store_n(to + i, kind.value(load_n(from + i, n)), n); });
      });
    });
  });
}

void activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, Activation act) {
  with_activation(act, [&](auto kind) {
    with_type(dx, [&](auto tag) {
      using T = decltype(tag);
      T* to = ptr<T>(dx);
      const T* above = ptr<T>(dy);
      const T* from = ptr<T>(x);
      for_blocks(dx.numel(), [&](int64_t begin, int64_t end) {
        for_vectors(begin, end, [&](int64_t i, int64_t n) {
          store_n(to + i, load_n(above + i, n) * kind.both(load_n(from + i, n)).slope, n);
        });
      });
    });
  });
}

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA

// Activations, alone and gated; the backward recomputes the forward from its input.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

struct Pair {
  float value, slope;
};

AM_DEVICE float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

struct Silu {
  static AM_DEVICE float value(float x) { return x * sigmoid(x); }
  static AM_DEVICE Pair both(float x) {
    float s = sigmoid(x), y = x * s;
    return {y, s + y * (1.0f - s)};
  }
};

struct Gelu {
  static AM_DEVICE float normal(float x) { return 0.5f * erfcf(-0.70710678f * x); }
  static AM_DEVICE float value(float x) { return x * normal(x); }
  static AM_DEVICE Pair both(float x) {
    float cdf = normal(x);
    return {x * cdf, cdf + x * expf(-0.5f * x * x) * 0.39894228f};
  }
};

// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), written as x sigmoid(2 u).
struct GeluTanh {
  static constexpr float kTwoRoots = 1.5957691216f, kCube = 0.044715f;
  static AM_DEVICE float value(float x) { return x * sigmoid(kTwoRoots * (x + kCube * x * x * x)); }
  static AM_DEVICE Pair both(float x) {
    float s = sigmoid(kTwoRoots * (x + kCube * x * x * x)), y = x * s;
    return {y, s + y * (1.0f - s) * (kTwoRoots * (1.0f + 3.0f * kCube * x * x))};
  }
};

struct Relu {
  static AM_DEVICE float value(float x) { return x < 0.0f ? 0.0f : x; }
  static AM_DEVICE Pair both(float x) { return {value(x), x > 0.0f ? 1.0f : 0.0f}; }
};

template <class F>
void with_activation(Activation act, F&& f) {
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

template <class Kind, class T>
struct GatedForward {
  T* y;
  const T* gate_up;
  int64_t width;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    float gate[N], up[N];
    load(gate_up + row * 2 * width + col, gate);
    load(gate_up + row * 2 * width + width + col, up);
#pragma unroll
    for (int j = 0; j < N; ++j) gate[j] = Kind::value(gate[j]) * up[j];
    store(y + row * width + col, gate);
  }
};

template <class Kind, class T>
struct GatedBackward {
  T* dgate_up;
  const T* dy;
  const T* gate_up;
  int64_t width;
  template <int N>
  AM_DEVICE void operator()(int64_t row, int64_t col, Lanes<N>) const {
    int64_t gate_at = row * 2 * width + col, up_at = gate_at + width;
    float d[N], gate[N], up[N];
    load(dy + row * width + col, d);
    load(gate_up + gate_at, gate);
    load(gate_up + up_at, up);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      Pair at = Kind::both(gate[j]);
      gate[j] = d[j] * up[j] * at.slope;
      up[j] = d[j] * at.value;
    }
    store(dgate_up + gate_at, gate);
    store(dgate_up + up_at, up);
  }
};

template <class Kind, class T>
struct Forward {
  T* y;
  const T* x;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
    float v[N];
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = Kind::value(v[j]);
    store(y + i, v);
  }
};

template <class Kind, class T>
struct Backward {
  T* dx;
  const T* dy;
  const T* x;
  template <int N>
  AM_DEVICE void operator()(int64_t i, Lanes<N>) const {
    float d[N], v[N];
    load(dy + i, d);
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) d[j] *= Kind::both(v[j]).slope;
    store(dx + i, d);
  }
};

// f(Kind{}, T{}).
template <class F>
void with_kind_and_type(Activation act, const Tensor& t, F&& f) {
  with_activation(act, [&](auto kind) { with_type(t, [&](auto tag) { f(kind, tag); }); });
}

}  // namespace

void gated_forward(const Tensor& y, const Tensor& gate_up, Activation act) {
  with_kind_and_type(act, y, [&](auto kind, auto tag) {
    using T = decltype(tag);
    each_row<kPack<T>>(y.rows(), y.cols(), aligned_16({y.raw(), gate_up.raw()}),
                       GatedForward<decltype(kind), T>{ptr<T>(y), ptr<T>(gate_up), y.cols()});
  });
}

void gated_backward(const Tensor& dgate_up, const Tensor& dy, const Tensor& gate_up, Activation act) {
  with_kind_and_type(act, dy, [&](auto kind, auto tag) {
    using T = decltype(tag);
    each_row<kPack<T>>(dy.rows(), dy.cols(), aligned_16({dgate_up.raw(), dy.raw(), gate_up.raw()}),
                       GatedBackward<decltype(kind), T>{ptr<T>(dgate_up), ptr<T>(dy), ptr<T>(gate_up), dy.cols()});
  });
}

void activation_forward(const Tensor& y, const Tensor& x, Activation act) {
  with_kind_and_type(act, y, [&](auto kind, auto tag) {
    using T = decltype(tag);
    each<kPack<T>>(y.numel(), aligned_16({y.raw(), x.raw()}), Forward<decltype(kind), T>{ptr<T>(y), ptr<T>(x)});
  });
}

void activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, Activation act) {
  with_kind_and_type(act, dx, [&](auto kind, auto tag) {
    using T = decltype(tag);
    each<kPack<T>>(dx.numel(), aligned_16({dx.raw(), dy.raw(), x.raw()}),
                   Backward<decltype(kind), T>{ptr<T>(dx), ptr<T>(dy), ptr<T>(x)});
  });
}

}  // namespace automodel::ops::cuda

// Products, experts, generation.
#include "ops/cuda_checks.h"

namespace automodel::ops::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

struct ProductCase {
  int64_t m, n, k, gap;
  DType in, out;
  bool transpose_a, transpose_b;
};

void check_product(const Machine& machine, const ProductCase& c) {
  Trial t(machine);
  Array &a = t.array(c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k, c.in, (c.transpose_a ? c.m : c.k) + c.gap)
                 .random(1),
        &b = t.array(c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n, c.in, (c.transpose_b ? c.k : c.n) + c.gap)
                 .random(2),
        &to = t.array(c.m, c.n, c.out, c.n + c.gap), &bias = t.vector(c.n, c.in).random(3);
  Trial::Expectation summed{.scale = 3 * std::sqrt(static_cast<double>(c.k)) + 1};
  summed.bf16 = 1e-3;
  for (bool biased : {false, true}) {
    auto args = [&](const Tensor& bias_tensor) {
      MatmulArgs with{.transpose_a = c.transpose_a, .transpose_b = c.transpose_b};
      if (biased) with.bias = &bias_tensor;
      return with;
    };
    t.run({&to}, summed, [&](const Kernels& k) {
      Tensor bias_tensor = t(bias);
      k.matmul(t(to), t(a), t(b), args(bias_tensor));
    });
    if (c.m == 1 && !c.transpose_a)
      t.run({&to}, summed, [&](const Kernels& k) {
        Tensor bias_tensor = t(bias);
        k.matmul_row(t(to), t(a), t(b), args(bias_tensor));
      });
  }
  t.run({&to}, summed, [&](const Kernels& k) {
    k.matmul(t(to), t(a), t(b), {.transpose_a = c.transpose_a, .transpose_b = c.transpose_b, .accumulate = true});
  });
}

Array& choices(Array& experts, int64_t n) {
  Random random(5, "experts");
  int64_t k = experts.cols();
  return experts.fill([&](int64_t i) {
    int64_t row = i / k,
            first = static_cast<int64_t>(random.below(static_cast<uint64_t>(n), static_cast<uint64_t>(row)));
    return row % 5 == 4 ? -1.0 : static_cast<double>((first + i % k) % n);
  });
}

void check_routing(const Machine& machine, int64_t tokens, int64_t n, int64_t k) {
  constexpr int64_t kSequence = 70, kFirst = 100, kSamples = 4;
  int64_t rows = tokens + 2;
  Trial t(machine);
  Array &probs = t.array(rows, n), &weights = t.array(rows, k), &experts = t.array(rows, k, DType::kI32),
        &logits = t.array(rows, n), &bias = t.vector(n).random(2, 0.1), &real = t.vector(tokens, DType::kI32),
        &dlogits = t.array(rows, n), &dweights = t.array(rows, k).random(3), &dprobs = t.array(kSamples, n).random(4),
        &sums = t.array(kSamples, 2 * n + 2, DType::kF64), &labels = t.vector(rows, DType::kI32),
        &losses = t.vector(kSamples);
  Random random(6, "logits");
  // Halves, so that some scores are equal.
  logits.fill([&](int64_t i) { return std::round(4 * random.normal(static_cast<uint64_t>(i))) / 2; });
  real.fill([](int64_t i) { return i % 6 == 2 ? 0 : 1; });
  labels.fill([](int64_t i) { return i % 4 == 1 ? -100 : 1; });
  for (bool renormalise : {false, true})
    for (bool whole : {false, true}) {
      auto args = [&](const Tensor& bias_tensor, const Tensor& real_tensor) {
        RouteArgs route{.renormalise = renormalise, .tokens = tokens, .first = kFirst, .sequence = kSequence};
        if (!whole) route.bias = &bias_tensor, route.real = &real_tensor;
        return route;
      };
      t.run({&probs, &weights, &experts}, [&](const Kernels& kernels) {
        Tensor b = t(bias), r = t(real);
        kernels.route_forward(t(probs), t(weights), t(experts), t(logits), args(b, r));
      });
      t.run({&dlogits}, [&](const Kernels& kernels) {
        Tensor b = t(bias), r = t(real);
        kernels.route_backward(t(dlogits), t(dweights), whole ? Tensor() : t(dprobs), t(probs), t(experts), args(b, r));
      });
      t.run({&dlogits}, [&](const Kernels& kernels) {
        Tensor b = t(bias), r = t(real);
        kernels.route_backward(t(dlogits), Tensor(), t(dprobs), t(probs), t(experts), args(b, r));
      });
      t.run({&sums}, {.f32 = 1e-8}, [&](const Kernels& kernels) {
        Tensor b = t(bias), r = t(real);
        kernels.route_sums(t(sums), t(probs), t(experts), t(labels), args(b, r));
      });
      t.run({&losses, &dprobs},
            [&](const Kernels& kernels) { kernels.balance_loss(t(losses), t(dprobs), t(sums), k, 0.5f); });
    }
  t.run({&logits, &weights, &experts}, [&](const Kernels& kernels) {
    kernels.route_forward(t(logits), t(weights), t(experts), t(logits), {.tokens = tokens, .sequence = kSequence});
  });
}

void check_order(const Machine& machine, int64_t rows, int64_t n, int64_t k) {
  CAPTURE(rows);
  CAPTURE(n);
  CAPTURE(k);
  Trial t(machine);
  Array &counts = t.vector(n, DType::kI32), &slots = t.array(rows, k, DType::kI32),
        &copies = t.vector(rows * k, DType::kI32), &tokens = t.vector(rows * k, DType::kI32),
        &experts = choices(t.array(rows, k, DType::kI32), n);
  t.run({&counts, &slots, &copies, &tokens},
        [&](const Kernels& kernels) { kernels.order_copies(t(counts), t(slots), t(copies), t(tokens), t(experts)); });
  if (rows > 1000 && !machine.fast) return;
  for (DType dtype : kTypes)
    for (int64_t width : {5, 64}) {
      Trial u(machine);
      Array &y = u.array(rows, width, dtype), &x = u.array(rows * k, width, dtype).random(1),
            &at = u.array(rows, k, DType::kI32), &scales = u.vector(rows * k).random(2),
            &other = u.array(rows * k, width, dtype).random(3), &out = u.vector(rows * k);
      at.set_all(slots.values());
      u.run({&y}, [&](const Kernels& kernels) { kernels.sum_copies(u(y), u(x), u(at), false); });
      u.run({&y}, [&](const Kernels& kernels) { kernels.sum_copies(u(y), u(x), u(at), true); });
      u.run({&out}, {.scale = 10}, [&](const Kernels& kernels) { kernels.row_products(u(out), u(x), u(other)); });
      u.run({&x}, [&](const Kernels& kernels) { kernels.scale_rows(u(x), u(x), u(scales)); });
    }
}

}  // namespace

void check_products(const Machine& machine) {
  for (DType in : kTypes)
    for (DType out : {DType::kF32, in})
      for (bool transpose_a : {false, true})
        for (bool transpose_b : {false, true})
          for (int64_t gap : {0, 5, 8}) {
            for (int64_t m : {0, 1, 17}) check_product(machine, {m, 33, 40, gap, in, out, transpose_a, transpose_b});
            check_product(machine, {1, 64, 128, gap, in, out, transpose_a, transpose_b});
            check_product(machine, {1, 72, 515, gap, in, out, transpose_a, transpose_b});
            check_product(machine, {3, 8, 0, gap, in, out, transpose_a, transpose_b});
            check_product(machine, {24, 16, 1, gap, in, out, transpose_a, transpose_b});
            if (machine.fast) check_product(machine, {515, 384, 1000, gap, in, out, transpose_a, transpose_b});
          }
}

void check_experts(const Machine& machine) {
  for (int64_t tokens : {0, 1, 77, 180})
    for (int64_t n : {1, 8, 60})
      for (int64_t k : {1, 2, 8})
        if (k <= n) {
          CAPTURE(tokens);
          CAPTURE(n);
          CAPTURE(k);
          check_routing(machine, tokens, n, k);
        }
  for (int64_t rows : {0, 1, 333})
    for (int64_t n : {1, 7, 128})
      for (int64_t k : {1, 3})
        if (k <= n) check_order(machine, rows, n, k);
  // A sort whose chunks are larger than the smallest.
  check_order(machine, 23000, 5, 3);
}

void check_decoding(const Machine& machine) {
  struct Case {
    int64_t batch;
    HeadLayout layout;
    int64_t slots, used;
  };
  for (DType dtype : kTypes)
    for (const Case& c :
         {Case{1, {4, 2, 16}, 300, 300}, {2, {2, 1, 33}, 9, 5}, {0, {2, 2, 8}, 4, 1}, {3, {6, 3, 64}, 20, 1}}) {
      Trial t(machine);
      int64_t rows = c.batch * c.layout.kv_heads * c.slots;
      Array &out = t.array(c.batch, c.layout.heads * c.layout.head_dim, dtype),
            &qkv = t.array(c.batch, c.layout.width(), dtype).random(1),
            &keys = t.array(rows, c.layout.head_dim, dtype).random(2),
            &values = t.array(rows, c.layout.head_dim, dtype).random(3);
      auto cache = [&](Array& a) { return t(a).view({c.batch * c.layout.kv_heads, c.slots, c.layout.head_dim}); };
      t.run({&out}, [&](const Kernels& k) {
        k.attention_decode(t(out), t(qkv), cache(keys), cache(values), c.layout, c.used, 0.3f);
      });
      for (int64_t count : {int64_t{1}, c.slots - 1, c.slots + 3}) {
        Array& many = t.array(c.batch * count, c.layout.width(), dtype).random(4);
        t.run({&keys, &values},
              [&](const Kernels& k) { k.cache_write(cache(keys), cache(values), t(many), c.layout, 7); });
      }
    }
}

}  // namespace automodel::ops::test

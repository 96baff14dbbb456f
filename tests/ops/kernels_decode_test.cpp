// What generation is made of: the product of one row by a matrix, and attention over kept keys and values.
#include "ops/kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

// c = a b (+ bias) in double precision, b [k,n] or, transposed, [n,k].
std::vector<double> row_product(const Array& a, const Array& b, const Array* bias, bool transposed) {
  int64_t k = a.cols(), n = transposed ? b.rows() : b.cols();
  std::vector<double> c(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    double sum = bias != nullptr ? bias->get(j) : 0;
    for (int64_t i = 0; i < k; ++i) sum += a.get(i) * (transposed ? b.get(j, i) : b.get(i, j));
    c[static_cast<size_t>(j)] = sum;
  }
  return c;
}

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kF32}};

// Softmax attention of one query over the slots that hold positions [first, last], in double precision.
std::vector<double> attend(const Array& qkv, int64_t row, int64_t query, const HeadLayout& l, int64_t head,
                           int64_t first, float scale) {
  int64_t d = l.head_dim, kv = head / (l.heads / l.kv_heads), width = l.width();
  std::vector<double> weights, out(static_cast<size_t>(d));
  double highest = -INFINITY, total = 0;
  auto at = [&](int64_t token, int64_t column) { return qkv.get((row + token) * width + column); };
  for (int64_t p = first; p <= query; ++p) {
    double score = 0;
    for (int64_t c = 0; c < d; ++c) score += at(query, head * d + c) * at(p, (l.heads + kv) * d + c);
    weights.push_back(score * scale);
    highest = std::max(highest, weights.back());
  }
  for (double& w : weights) total += w = std::exp(w - highest);
  for (int64_t p = first; p <= query; ++p)
    for (int64_t c = 0; c < d; ++c)
      out[static_cast<size_t>(c)] +=
          weights[static_cast<size_t>(p - first)] / total * at(p, (l.heads + l.kv_heads + kv) * d + c);
  return out;
}

}  // namespace

TEST_CASE("the product of one row is that of matmul, with and without bias, for any shape and stride") {
  for (Types t : kTypes)
    for (bool transposed : {true, false})
      for (int64_t n : {1, 3, 4, 17, 70, 300, 2100})
        for (int64_t k : {1, 5, 16, 64, 131}) {
          CAPTURE(n);
          CAPTURE(k);
          CAPTURE(transposed);
          Array a(1, k, t.in), bias(n, t.in), c(1, n, t.out);
          Array b(transposed ? n : k, transposed ? k : n, t.in, (transposed ? k : n) + 3);
          a.random(1), b.random(2), bias.random(3);
          for (const Array* with : {static_cast<const Array*>(nullptr), static_cast<const Array*>(&bias)}) {
            auto want = row_product(a, b, with, transposed);
            on_every_set(
                {&c},
                [&](const Kernels& kernels) {
                  Tensor bias_tensor = bias.tensor();
                  MatmulArgs args{.transpose_b = transposed, .bias = with != nullptr ? &bias_tensor : nullptr};
                  kernels.matmul_row(c.tensor(), a.tensor(), b.tensor(), args);
                },
                [&] { CHECK(worst_error(c, want, std::sqrt(static_cast<double>(k))) < 4); });
          }
        }
}

TEST_CASE("attention over kept keys and values is that over the whole sequence, also in a ring of fewer slots") {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (HeadLayout l : {HeadLayout{2, 2, 16}, HeadLayout{6, 2, 20}, HeadLayout{4, 1, 72}, HeadLayout{1, 1, 256}})
      for (int64_t sequence : {1, 2, 37, 300, 600})
        for (int64_t slots : {int64_t{5}, int64_t{256}, sequence}) {
          CAPTURE(sequence);
          CAPTURE(slots);
          constexpr int64_t kBatch = 2;
          int64_t d = l.head_dim, used = std::min(sequence, slots);
          float scale = 0.2f;
          Array qkv(kBatch * sequence, l.width(), dtype), last(kBatch, l.width(), dtype);
          qkv.random(4);
          for (int64_t r = 0; r < kBatch; ++r)
            for (int64_t c = 0; c < l.width(); ++c) last.set(r, c, qkv.get((r + 1) * sequence - 1, c));
          std::vector<double> want;
          for (int64_t r = 0; r < kBatch; ++r)
            for (int64_t h = 0; h < l.heads; ++h)
              for (double x : attend(qkv, r * sequence, sequence - 1, l, h, sequence - used, scale)) want.push_back(x);
          Array keys(kBatch * l.kv_heads, slots * d, dtype), values(kBatch * l.kv_heads, slots * d, dtype);
          Array out(kBatch, l.heads * d, dtype);
          on_every_set(
              {&keys, &values, &out},
              [&](const Kernels& kernels) {
                Shape shape{kBatch * l.kv_heads, slots, d};
                Tensor k = Tensor::wrap(keys.tensor().raw(), shape, dtype);
                Tensor v = Tensor::wrap(values.tensor().raw(), shape, dtype);
                kernels.cache_write(k, v, qkv.tensor(), l, 0);
                kernels.attention_decode(out.tensor(), last.tensor(), k, v, l, used, scale);
              },
              [&] { CHECK(worst_error(out, want) < 3); });
        }
}

TEST_CASE("positions written one by one lie where those written at once lie") {
  HeadLayout l{2, 1, 4};
  constexpr int64_t kSequence = 23, kSlots = 9;
  Array qkv(kSequence, l.width());
  qkv.random(5);
  Array keys(1, kSlots * 4), values(1, kSlots * 4), keys_one(1, kSlots * 4), values_one(1, kSlots * 4);
  auto shaped = [](Array& a) { return Tensor::wrap(a.tensor().raw(), {1, kSlots, 4}, DType::kF32); };
  on_every_set(
      {&keys, &values, &keys_one, &values_one},
      [&](const Kernels& kernels) {
        kernels.cache_write(shaped(keys), shaped(values), qkv.tensor(), l, 0);
        for (int64_t p = 0; p < kSequence; ++p)
          kernels.cache_write(shaped(keys_one), shaped(values_one),
                              Tensor::wrap(qkv.tensor().data<float>() + p * l.width(), {1, l.width()}, DType::kF32), l,
                              p);
      },
      [&] {
        CHECK(keys.memory() == keys_one.memory());
        CHECK(values.memory() == values_one.memory());
      });
}

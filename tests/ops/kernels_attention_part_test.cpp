// Attention of some queries of longer rows to some of the keys, against double precision from the definition.
#include <limits>
#include <utility>

#include "kernel_support.h"
#include "ops/attention.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

struct Case {
  int64_t batch = 2, sequence = 1;
  HeadLayout layout{2, 1, 16};
  AttentionPart part;
  int64_t window = 0;
  bool documents = false;
  float dropout = 0;
};

std::string describe(const Case& c, DType dtype) {
  return std::string(name_of(dtype)) + ", " + std::to_string(c.sequence) + " queries from " +
         std::to_string(c.part.first_query) + ", " + std::to_string(c.part.keys) + " keys from " +
         std::to_string(c.part.first_key) + ", window " + std::to_string(c.window) +
         (c.documents ? ", documents" : "") + ", dropout " + std::to_string(c.dropout);
}

// Queries and keys of a case in matrices with longer rows, in which whatever is not of the case is NaN.
struct Part {
  Part(const Case& c, DType dtype)
      : c(c),
        query_rows(c.part.query_rows > 0 ? c.part.query_rows : c.sequence),
        key_rows(c.part.key_rows > 0 ? c.part.key_rows : c.part.keys),
        q(matrix(c.batch * query_rows, c.layout.heads, dtype)),
        k(matrix(c.batch * key_rows, c.layout.kv_heads, dtype)),
        v(matrix(c.batch * key_rows, c.layout.kv_heads, dtype)),
        out(matrix(c.batch * query_rows, c.layout.heads, dtype)),
        dout(matrix(c.batch * query_rows, c.layout.heads, dtype)),
        lse(c.batch * c.layout.heads, c.sequence),
        starts(c.batch, c.sequence, DType::kI32, c.sequence + 3) {
    fill(q, query_rows, c.sequence, 1), fill(out, query_rows, c.sequence, 4), fill(dout, query_rows, c.sequence, 5);
    fill(k, key_rows, c.part.keys, 2), fill(v, key_rows, c.part.keys, 3);
    // Documents of 19 tokens in row 0, 20 in row 1, ...
    starts.fill([&](int64_t i) {
      int64_t length = 19 + i / c.sequence, position = c.part.first_query + i % c.sequence;
      return position / length * length;
    });
    start_tensor = starts.tensor();
    for (int64_t row = 0; row < c.batch; ++row) samples.push_back(row * 0x123456789 + 3);
    sample_tensor = Tensor::wrap(samples.data(), {c.batch}, DType::kI64);
    args = {.batch = c.batch,
            .sequence = c.sequence,
            .layout = c.layout,
            .scale = 0.25f,
            .window = c.window,
            .document_start = c.documents ? &start_tensor : nullptr,
            .dropout = {c.dropout, 0x0123456789abcdef, &sample_tensor},
            .part = c.part};
  }
  Part(const Part&) = delete;

  static Array matrix(int64_t rows, int64_t heads, DType dtype) { return {rows, heads * 16, dtype, heads * 16 + 9}; }
  void fill(Array& a, int64_t rows, int64_t used, uint64_t stream) const {
    Random random(99, stream);
    for (int64_t r = 0; r < a.rows(); ++r)
      for (int64_t i = 0; r % rows < used && i < a.cols(); ++i)
        a.set(r, i, random.normal(static_cast<uint64_t>(r * a.cols() + i)));
  }
  HeadColumns in() { return {q.tensor(), k.tensor(), v.tensor()}; }

  bool sees(int64_t row, int64_t i, int64_t j) const {
    int64_t query = c.part.first_query + i, key = c.part.first_key + j;
    if (key > query || (c.window > 0 && query - key >= c.window)) return false;
    return !c.documents || static_cast<double>(key) >= starts.get(row, i);
  }
  double kept(int64_t row, int64_t h, int64_t i, int64_t j) const {
    if (c.dropout == 0) return 1;
    auto sample = static_cast<uint64_t>(samples[static_cast<size_t>(row)]);
    auto query = static_cast<uint32_t>(c.part.first_query + i), key = static_cast<uint32_t>(c.part.first_key + j);
    auto head = static_cast<uint32_t>(c.part.first_head + h + 65536 * static_cast<int64_t>(sample >> 32));
    auto words = philox({query, key / 4, static_cast<uint32_t>(sample), head}, {0x89abcdef, 0x01234567});
    double threshold = std::round(static_cast<double>(c.dropout) * 0x1p32);
    return words[key % 4] < threshold ? 0 : 1 / (1 - threshold * 0x1p-32);
  }

  Case c;
  int64_t query_rows, key_rows;
  Array q, k, v, out, dout, lse, starts;
  std::vector<int64_t> samples;
  Tensor start_tensor, sample_tensor;
  AttentionArgs args;
};

// What the kernels should write, as values() of their outputs, from what lies in `p`. NaN: nothing is written there.
struct Expected {
  std::vector<double> out, lse, dq, dk, dv;
};

Expected reference(const Part& p, bool backward) {
  const HeadLayout& layout = p.c.layout;
  int64_t d = layout.head_dim, group = layout.heads / layout.kv_heads;
  Expected e{p.out.values(), p.lse.values(), p.q.values(), p.k.values(), p.v.values()};
  // Whatever is not NaN in the inputs is written.
  for (std::vector<double>* x : {&e.out, &e.dq, &e.dk, &e.dv})
    for (double& number : *x) number = std::isnan(number) ? number : 0;
  for (int64_t row = 0; row < p.c.batch; ++row)
    for (int64_t h = 0; h < layout.heads; ++h)
      for (int64_t i = 0; i < p.c.sequence; ++i) {
        int64_t token = row * p.query_rows + i, kv = h / group, at = (token * layout.heads + h) * d;
        auto key_at = [&](int64_t j) { return ((row * p.key_rows + j) * layout.kv_heads + kv) * d; };
        std::vector<double> weights(static_cast<size_t>(p.c.part.keys), 0);
        double total = 0, delta = 0;
        for (int64_t j = 0; j < p.c.part.keys; ++j) {
          if (!p.sees(row, i, j)) continue;
          double s = 0;
          for (int64_t x = 0; x < d; ++x) s += p.q.get(at + x) * p.k.get(key_at(j) + x);
          total += weights[static_cast<size_t>(j)] = std::exp(s * 0.25);
        }
        double& lse = e.lse[static_cast<size_t>((row * layout.heads + h) * p.c.sequence + i)];
        if (!backward) lse = total == 0 ? kNever : std::log(total);
        for (int64_t x = 0; x < d; ++x) delta += p.dout.get(at + x) * p.out.get(at + x);
        for (int64_t j = 0; j < p.c.part.keys; ++j) {
          double weight = weights[static_cast<size_t>(j)], kept = p.kept(row, h, i, j), dp = 0;
          if (weight == 0) continue;
          weight *= std::exp(-lse);
          for (int64_t x = 0; x < d; ++x) {
            e.out[static_cast<size_t>(at + x)] += kept * weight * p.v.get(key_at(j) + x);
            dp += kept * p.dout.get(at + x) * p.v.get(key_at(j) + x);
          }
          double ds = weight * (dp - delta) * 0.25;
          for (int64_t x = 0; x < d; ++x) {
            e.dq[static_cast<size_t>(at + x)] += ds * p.k.get(key_at(j) + x);
            e.dk[static_cast<size_t>(key_at(j) + x)] += ds * p.q.get(at + x);
            e.dv[static_cast<size_t>(key_at(j) + x)] += kept * weight * p.dout.get(at + x);
          }
        }
      }
  return e;
}

// The largest error beyond one rounding to bf16, where there is one, as a share of the largest number. NaN agrees with
// NaN, and -infinity with itself.
double error_of(const Array& actual, const std::vector<double>& expected) {
  double largest = 1e-30, worst = 0, rounding = actual.dtype() == DType::kBF16 ? 0x1p-8 : 0;
  for (double x : expected)
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  for (int64_t i = 0; i < actual.rows() * actual.cols(); ++i) {
    double got = actual.get(i), want = expected[static_cast<size_t>(i)];
    if (got == want || (std::isnan(got) && std::isnan(want))) continue;
    double error = std::abs(got - want) - rounding * std::abs(want);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst / largest;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  int64_t turn = 0;
  // Queries before, over, at the end of, behind and far behind the keys, at places that are multiples of nothing.
  struct Place {
    int64_t sequence, keys, first_query, first_key;
  };
  for (Place p : {Place{5, 9, 0, 20},
                  {64, 64, 64, 0},
                  {70, 33, 10, 30},
                  {33, 150, 61, 0},
                  {130, 70, 3, 66},
                  {130, 130, 259, 129},
                  {40, 90, 1000, 903},
                  {1, 1, 7, 7},
                  {66, 130, 77, 14}})
    for (int64_t window : {0, 31, 100})
      for (bool documents : {false, true}) {
        ++turn;
        list.push_back({.batch = 1 + turn % 2,
                        .sequence = p.sequence,
                        .layout = turn % 3 == 0 ? HeadLayout{4, 2, 16} : HeadLayout{2, 1, 16},
                        .part = {.keys = p.keys,
                                 .first_query = p.first_query,
                                 .first_key = p.first_key,
                                 .query_rows = turn % 4 == 0 ? p.sequence + 11 : 0,
                                 .key_rows = turn % 5 == 0 ? p.keys + 7 : 0,
                                 .first_head = turn % 7},
                        .window = window,
                        .documents = documents,
                        .dropout = turn % 3 == 1 ? 0.3f : 0});
      }
  return list;
}

double tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 5e-3 : 1e-5;  // weights are rounded to bf16 where bf16 is multiplied
}

}  // namespace

TEST_CASE("attention of some queries to some keys agrees with double precision") {
  for (const Case& c : cases())
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      CAPTURE(describe(c, dtype));
      Part p(c, dtype);
      Expected want = reference(p, false);
      Array out = Part::matrix(p.q.rows(), c.layout.heads, c.window == 0 ? DType::kF32 : dtype), lse = p.lse;
      on_every_set(
          {&out, &lse},
          [&](const Kernels& kernels) { kernels.attention_forward(out.tensor(), lse.tensor(), p.in(), p.args, false); },
          [&] {
            CHECK(error_of(out, want.out) < tolerance(dtype));
            CHECK(error_of(lse, want.lse) < 1e-5);
          });
    }
}

TEST_CASE("the gradients of a part are its share, for any log-sum-exp over more keys") {
  for (const Case& c : cases())
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      CAPTURE(describe(c, dtype));
      Part p(c, dtype);
      std::vector<double> lse = reference(p, false).lse;
      // Other keys, too, were seen, or, by every other query without a key here, none.
      for (size_t i = 0; i < lse.size(); ++i)
        p.lse.set(static_cast<int64_t>(i), lse[i] != kNever ? lse[i] + 0.7 : i % 2 == 0 ? 1 : kNever);
      Expected want = reference(p, true);
      DType to = c.documents ? DType::kF32 : dtype;
      Array dq = Part::matrix(p.q.rows(), c.layout.heads, to), dk = Part::matrix(p.k.rows(), c.layout.kv_heads, to),
            dv = Part::matrix(p.k.rows(), c.layout.kv_heads, to);
      on_every_set(
          {&dq, &dk, &dv},
          [&](const Kernels& kernels) {
            kernels.attention_backward({{dq.tensor(), dk.tensor(), dv.tensor()}}, p.dout.tensor(), p.in(),
                                       p.out.tensor(), p.lse.tensor(), p.args);
          },
          [&] {
            CHECK(error_of(dq, want.dq) < tolerance(dtype));
            CHECK(error_of(dk, want.dk) < tolerance(dtype));
            CHECK(error_of(dv, want.dv) < tolerance(dtype));
          });
    }
}

TEST_CASE("attention to ranges of keys, in any order, merges to attention to all, and gradients add up") {
  constexpr int64_t kSequence = 150;
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (bool documents : {false, true})
      for (float dropout : {0.0f, 0.3f}) {
        Case c{.sequence = kSequence, .part = {.keys = kSequence}, .documents = documents, .dropout = dropout};
        CAPTURE(describe(c, dtype));
        Part p(c, dtype);
        Expected want = reference(p, false);
        Array out = Part::matrix(p.q.rows(), 2, DType::kF32), lse = p.lse,
              dq = Part::matrix(p.q.rows(), 2, DType::kF32), dk = Part::matrix(p.k.rows(), 1, DType::kF32), dv = dk;
        struct Range {
          int64_t begin, end;
        };
        for (std::vector<Range> ranges : {std::vector<Range>{{0, 37}, {37, 101}, {101, 150}},
                                          {{101, 150}, {0, 37}, {37, 101}},
                                          {{149, 150}, {64, 149}, {0, 64}}})
          on_every_set(
              {&out, &lse, &dq, &dk, &dv},
              [&] {
                // What is there already counts.
                dq.fill([](int64_t) { return 0.5; }), dk.fill([](int64_t) { return 0.25; });
                dv.fill([](int64_t) { return -1; });
              },
              [&](const Kernels& kernels) {
                bool merge = false;
                auto keys = [&](const Tensor& t, Range r) { return t.narrow(r.begin, t.rows() - r.begin); };
                for (int pass : {0, 1}) {
                  for (Range r : ranges) {
                    AttentionArgs args = p.args;
                    args.part = {.keys = r.end - r.begin, .first_key = r.begin, .key_rows = kSequence};
                    HeadColumns in{p.q.tensor(), keys(p.k.tensor(), r), keys(p.v.tensor(), r)};
                    if (pass == 0)
                      kernels.attention_forward(out.tensor(), lse.tensor(), in, args, std::exchange(merge, true));
                    else
                      kernels.attention_backward(
                          {{dq.tensor(), keys(dk.tensor(), r), keys(dv.tensor(), r)}, true, true}, p.dout.tensor(), in,
                          p.out.tensor(), lse.tensor(), args);
                  }
                }
              },
              [&] {
                CHECK(error_of(out, want.out) < tolerance(dtype));
                CHECK(error_of(lse, want.lse) < 1e-5);
                Expected whole = want;
                for (double& x : whole.dq) x += 0.5;
                for (double& x : whole.dk) x += 0.25;
                for (double& x : whole.dv) x -= 1;
                CHECK(error_of(dq, whole.dq) < tolerance(dtype));
                CHECK(error_of(dk, whole.dk) < tolerance(dtype));
                CHECK(error_of(dv, whole.dv) < tolerance(dtype));
              });
      }
}

TEST_CASE("copy_columns copies and rounds between matrices with gaps") {
  for (int64_t rows : {0, 1, 5, 300})
    for (int64_t cols : kOddSizes)
      for (DType from : {DType::kF32, DType::kBF16})
        for (DType to : {DType::kF32, DType::kBF16}) {
          Array x(rows, cols, from, cols + 5), y(rows, cols, to, cols + 2);
          x.random(3);
          std::vector<double> want = x.values();
          if (to == DType::kBF16)
            for (double& number : want) number = to_float(to_bf16(static_cast<float>(number)));
          on_every_set(
              {&y}, [&](const Kernels& kernels) { kernels.copy_columns(y.tensor(), x.tensor()); },
              [&] { CHECK((y.values() == want)); });
        }
}

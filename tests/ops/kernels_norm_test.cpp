// Norms against double precision.
#include "kernel_support.h"

using namespace automodel;
using namespace automodel::ops;
using namespace automodel::ops::test;

namespace {

constexpr double kEps = 1e-5;
const std::vector<DType> kTypes{DType::kF32, DType::kBF16};

double rounded(double x, DType type) {
  return type == DType::kBF16 ? to_float(to_bf16(static_cast<float>(x))) : x;
}

// y, dx and the row's share of dw of an RMS norm over `n` elements.
struct Row {
  double rstd = 0;
  std::vector<double> y, dx, dw;
};
Row rms_row(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& dy, DType type) {
  Row row;
  size_t n = x.size();
  double squares = 0, dot = 0;
  for (double v : x) squares += v * v;
  row.rstd = 1 / std::sqrt(squares / static_cast<double>(n) + kEps);
  for (size_t i = 0; i < n; ++i) dot += dy[i] * w[i] * x[i] * row.rstd;
  for (size_t i = 0; i < n; ++i) {
    double h = x[i] * row.rstd;
    row.y.push_back(rounded(h, type) * w[i]);
    row.dx.push_back(row.rstd * (dy[i] * w[i] - h * dot / static_cast<double>(n)));
    row.dw.push_back(dy[i] * rounded(h, type));
  }
  return row;
}

std::vector<double> part(const Array& x, int64_t row, int64_t begin, int64_t count) {
  std::vector<double> v;
  for (int64_t i = 0; i < count; ++i) v.push_back(x.get(row, begin + i));
  return v;
}

}  // namespace

TEST_CASE("rms norm, forward and backward, with and without accumulation") {
  for (DType type : kTypes)
    for (int64_t rows : kOddSizes)
      for (int64_t width : {1, 3, 17, 33, 257, 288}) {
        INFO(rows, " x ", width, " of ", std::string(name_of(type)));
        Array x(rows, width, type), w(width, type), dy(rows, width, type), dx0(rows, width, type), dw0(width);
        Array y(rows, width, type), rstd(rows), dx(rows, width, type), dw(width);
        x.random(1, 2, 0.3), w.random(2, 0.5, 1), dy.random(3), dx0.random(4), dw0.random(5);
        std::vector<double> y_ref, rstd_ref, dx_ref, dw_ref(static_cast<size_t>(width), 0.0);
        double largest_rstd = 1;
        for (int64_t r = 0; r < rows; ++r) {
          Row row = rms_row(part(x, r, 0, width), w.values(), part(dy, r, 0, width), type);
          y_ref.insert(y_ref.end(), row.y.begin(), row.y.end());
          dx_ref.insert(dx_ref.end(), row.dx.begin(), row.dx.end());
          rstd_ref.push_back(row.rstd);
          largest_rstd = std::max(largest_rstd, row.rstd);
          for (size_t i = 0; i < row.dw.size(); ++i) dw_ref[i] += row.dw[i];
        }
        double scale = 2 * largest_rstd;  // a row of small numbers has large gradients
        on_every_set(
            {&y, &rstd},
            [&](const Kernels& k) {
              k.rms_norm_forward(y.tensor(), rstd.tensor(), x.tensor(), w.tensor(), static_cast<float>(kEps));
            },
            [&] {
              CHECK(worst_error(y, y_ref) < 2);
              CHECK(worst_error(rstd, rstd_ref) < 1);
            });
        rstd.set_all(rstd_ref);
        for (bool accumulate : {false, true}) {
          std::vector<double> dx_sum = dx_ref, dw_sum = dw_ref;
          for (size_t i = 0; accumulate && i < dx_sum.size(); ++i) dx_sum[i] += dx0.get(static_cast<int64_t>(i));
          for (size_t i = 0; accumulate && i < dw_sum.size(); ++i) dw_sum[i] += dw0.get(static_cast<int64_t>(i));
          on_every_set(
              {&dx, &dw},
              [&] {
                if (accumulate) dx.set_all(dx0.values()), dw.set_all(dw0.values());
              },
              [&](const Kernels& k) {
                k.rms_norm_backward(dx.tensor(), accumulate, dw.tensor(), accumulate, dy.tensor(), x.tensor(),
                                    rstd.tensor(), w.tensor());
              },
              [&] {
                CHECK(worst_error(dx, dx_sum, scale) < 2);
                double terms = std::sqrt(static_cast<double>(rows)) + 1;
                CHECK(worst_error(dw, dw_sum, type == DType::kBF16 ? 8000 * terms : 2 * terms) < 1);
              });
        }
        // In place, and without the gradient of w.
        on_every_set(
            {&dx}, [&] { dx.set_all(dy.values()); },
            [&](const Kernels& k) {
              k.rms_norm_backward(dx.tensor(), false, Tensor(), false, dx.tensor(), x.tensor(), rstd.tensor(),
                                  w.tensor());
            },
            [&] { CHECK(worst_error(dx, dx_ref, scale) < 2); });
      }
}

TEST_CASE("head norm works in place on a range of columns and keeps its input") {
  for (DType type : kTypes)
    for (int64_t rows : {0, 1, 17, 130})
      for (int64_t head_dim : {5, 32, 64}) {
        INFO(rows, " rows of heads of ", head_dim, " ", std::string(name_of(type)));
        constexpr int64_t kHeads = 3;
        int64_t begin = 7, count = kHeads * head_dim, width = begin + count + 9;
        Array x0(rows, width, type), w(head_dim, type), dy(rows, width, type), dw0(head_dim);
        Array x(rows, width, type), before(rows, count, type), rstd(rows, kHeads), dx(rows, width, type), dw(head_dim);
        x0.random(1, 2, 0.3), w.random(2, 0.5, 1), dy.random(3), dw0.random(4);
        std::vector<double> y_ref = x0.values(), before_ref, rstd_ref, dx_ref = dy.values(), dw_ref = dw0.values();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t h = 0; h < kHeads; ++h) {
            int64_t at = begin + h * head_dim;
            std::vector<double> in = part(x0, r, at, head_dim);
            Row row = rms_row(in, w.values(), part(dy, r, at, head_dim), type);
            before_ref.insert(before_ref.end(), in.begin(), in.end());
            rstd_ref.push_back(row.rstd);
            std::copy(row.y.begin(), row.y.end(), y_ref.begin() + r * width + at);
            std::copy(row.dx.begin(), row.dx.end(), dx_ref.begin() + r * width + at);
            for (size_t i = 0; i < row.dw.size(); ++i) dw_ref[i] += row.dw[i];
          }
        on_every_set(
            {&x, &before, &rstd}, [&] { x.set_all(x0.values()); },
            [&](const Kernels& k) {
              k.head_norm_forward(x.tensor(), before.tensor(), rstd.tensor(), w.tensor(), begin,
                                  static_cast<float>(kEps));
            },
            [&] {
              CHECK(worst_error(x, y_ref) < 2);
              CHECK(worst_error(before, before_ref, 0) == 0);
              CHECK(worst_error(rstd, rstd_ref) < 1);
            });
        before.set_all(before_ref);
        rstd.set_all(rstd_ref);
        for (bool with_dw : {false, true})
          on_every_set(
              {&dx, &dw},
              [&] {
                dx.set_all(dy.values());
                dw.set_all(dw0.values());
              },
              [&](const Kernels& k) {
                k.head_norm_backward(dx.tensor(), with_dw ? dw.tensor() : Tensor(), true, before.tensor(),
                                     rstd.tensor(), w.tensor(), begin);
              },
              [&] {
                CHECK(worst_error(dx, dx_ref, 2) < 2);
                double terms = std::sqrt(static_cast<double>(rows * kHeads)) + 1;
                if (with_dw)
                  CHECK(worst_error(dw, dw_ref, type == DType::kBF16 ? 8000 * terms : 2 * terms) < 1);
                else
                  CHECK(worst_error(dw, dw0.values(), 0) == 0);
              });
      }
}

TEST_CASE("layer norm, forward and backward, with any of its gradients left out") {
  for (DType type : kTypes)
    for (int64_t rows : kOddSizes)
      for (int64_t width : {2, 3, 17, 33, 257, 288}) {
        INFO(rows, " x ", width, " of ", std::string(name_of(type)));
        Array x(rows, width, type), w(width, type), b(width, type), dy(rows, width, type), dx0(rows, width, type);
        Array dw0(width), db0(width), y(rows, width, type), mean(rows), rstd(rows), dx(rows, width, type), dw(width);
        Array db(width);
        x.random(1, 2, 3), w.random(2, 0.5, 1), b.random(3), dy.random(4), dx0.random(5), dw0.random(6), db0.random(7);
        std::vector<double> y_ref, mean_ref, rstd_ref, dx_ref, dw_ref = dw0.values(), db_ref = db0.values();
        auto n = static_cast<double>(width);
        double largest_rstd = 1;
        for (int64_t r = 0; r < rows; ++r) {
          double m = 0, square = 0, sum_g = 0, sum_gh = 0;
          for (int64_t i = 0; i < width; ++i) m += x.get(r, i) / n;
          for (int64_t i = 0; i < width; ++i) square += (x.get(r, i) - m) * (x.get(r, i) - m) / n;
          double s = 1 / std::sqrt(square + kEps);
          largest_rstd = std::max(largest_rstd, s);
          auto h = [&](int64_t i) { return (x.get(r, i) - m) * s; };
          for (int64_t i = 0; i < width; ++i) {
            sum_g += dy.get(r, i) * w.get(i) / n;
            sum_gh += dy.get(r, i) * w.get(i) * h(i) / n;
          }
          for (int64_t i = 0; i < width; ++i) {
            y_ref.push_back(h(i) * w.get(i) + b.get(i));
            dx_ref.push_back(s * (dy.get(r, i) * w.get(i) - sum_g - h(i) * sum_gh));
            dw_ref[static_cast<size_t>(i)] += dy.get(r, i) * h(i);
            db_ref[static_cast<size_t>(i)] += dy.get(r, i);
          }
          mean_ref.push_back(m);
          rstd_ref.push_back(s);
        }
        // Rows of nearly equal numbers magnify the rounding of their mean.
        double scale = 3 * largest_rstd;
        on_every_set(
            {&y, &mean, &rstd},
            [&](const Kernels& k) {
              k.layer_norm_forward(y.tensor(), mean.tensor(), rstd.tensor(), x.tensor(), w.tensor(), b.tensor(),
                                   static_cast<float>(kEps));
            },
            [&] {
              CHECK(worst_error(y, y_ref, scale) < 2);
              CHECK(worst_error(mean, mean_ref) < 1);
              CHECK(worst_error(rstd, rstd_ref, scale * scale) < 2);
            });
        mean.set_all(mean_ref);
        rstd.set_all(rstd_ref);
        double terms = scale * (std::sqrt(static_cast<double>(rows)) + 1);
        for (int wanted = 0; wanted < 4; ++wanted)
          on_every_set(
              {&dx, &dw, &db},
              [&] {
                dw.set_all(dw0.values());
                db.set_all(db0.values());
              },
              [&](const Kernels& k) {
                k.layer_norm_backward(dx.tensor(), false, wanted & 1 ? dw.tensor() : Tensor(),
                                      wanted & 2 ? db.tensor() : Tensor(), true, dy.tensor(), x.tensor(), mean.tensor(),
                                      rstd.tensor(), w.tensor());
              },
              [&] {
                CHECK(worst_error(dx, dx_ref, scale * scale) < 2);
                CHECK(worst_error(dw, wanted & 1 ? dw_ref : dw0.values(), terms) < 2);
                CHECK(worst_error(db, wanted & 2 ? db_ref : db0.values(), terms) < 2);
              });
        std::vector<double> dx_sum = dx_ref;
        for (size_t i = 0; i < dx_sum.size(); ++i) dx_sum[i] += dx0.get(static_cast<int64_t>(i));
        on_every_set(
            {&dx, &dw, &db}, [&] { dx.set_all(dx0.values()); },
            [&](const Kernels& k) {
              k.layer_norm_backward(dx.tensor(), true, dw.tensor(), db.tensor(), false, dy.tensor(), x.tensor(),
                                    mean.tensor(), rstd.tensor(), w.tensor());
            },
            [&] {
              CHECK(worst_error(dx, dx_sum, scale * scale) < 2);
              std::vector<double> dw_only = dw_ref;
              for (int64_t i = 0; i < width; ++i) dw_only[static_cast<size_t>(i)] -= dw0.get(i);
              CHECK(worst_error(dw, dw_only, terms) < 2);
            });
      }
}

// Kernels over elements and rows: sums, products, norms, activations, dropout, embeddings, losses, the optimizer.
#include "ops/cuda_checks.h"

namespace automodel::ops::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

template <class F>
void for_shapes(const Machine& machine, F&& f) {
  for (Size size : sizes(machine))
    for (DType dtype : kTypes) {
      CAPTURE(size.rows);
      CAPTURE(size.cols);
      CAPTURE(name_of(dtype));
      f(size.rows, size.cols, dtype);
    }
}

// Ids in [low, high), often the same ones.
Array& ids(Array& array, int64_t low, int64_t high) {
  Random random(7, "ids");
  return array.fill([&](int64_t i) {
    auto n = static_cast<uint64_t>(i);
    auto range = static_cast<uint64_t>(high - low);
    return static_cast<double>(low + static_cast<int64_t>(random.below(n % 3 == 0 ? range : (range + 3) / 4, n)));
  });
}

}  // namespace

void check_elementwise(const Machine& machine) {
  for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
    {
      Trial t(machine);
      Array &y = t.array(rows, cols, dtype), &a = t.array(rows, cols, dtype).random(1),
            &b = t.array(rows, cols, dtype).random(2);
      t.run({&y}, [&](const Kernels& k) { k.add(t(y), t(a), t(b)); });
      t.run({&a}, [&](const Kernels& k) { k.add(t(a), t(a), t(b)); });
      t.run({&b}, [&](const Kernels& k) { k.scale(t(b), 0.37f); });
    }
    for (DType from : kTypes) {
      Trial t(machine);
      Array &y = t.array(rows, cols, dtype), &x = t.array(rows, cols, from).random(3);
      t.run({&y}, {.f32 = 0, .bf16 = 0}, [&](const Kernels& k) { k.cast(t(y), t(x)); });
      for (int64_t gap : {3, 8}) {
        Array &to = t.array(rows, cols, dtype, cols + gap), &at = t.array(rows, cols, from, cols + 2 * gap).random(4);
        t.run({&to}, {.f32 = 0, .bf16 = 0}, [&](const Kernels& k) { k.copy_columns(t(to), t(at)); });
      }
    }
  });
}

void check_activations(const Machine& machine) {
  for (Activation act : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu})
    for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
      if (!machine.fast && rows > 5 && cols > 515) return;
      Trial t(machine);
      Array &y = t.array(rows, cols, dtype), &x = t.array(rows, cols, dtype).random(1, 3),
            &dy = t.array(rows, cols, dtype).random(2), &both = t.array(rows, 2 * cols, dtype).random(3, 3),
            &dboth = t.array(rows, 2 * cols, dtype);
      t.run({&y}, [&](const Kernels& k) { k.activation_forward(t(y), t(x), act); });
      t.run({&y}, [&](const Kernels& k) { k.activation_backward(t(y), t(dy), t(x), act); });
      t.run({&y}, [&](const Kernels& k) { k.gated_forward(t(y), t(both), act); });
      t.run({&dboth}, [&](const Kernels& k) { k.gated_backward(t(dboth), t(dy), t(both), act); });
      t.run({&both}, [&](const Kernels& k) { k.gated_backward(t(both), t(dy), t(both), act); });
      t.run({&dy}, [&](const Kernels& k) { k.activation_backward(t(dy), t(dy), t(x), act); });
    });
}

void check_dropout(const Machine& machine) {
  for (DType dtype : kTypes)
    for (int64_t width : {1, 15, 64, 100})
      for (int64_t rows : {0, 3, 9}) {
        CAPTURE(width);
        CAPTURE(rows);
        Trial t(machine);
        Array &y = t.array(rows, width, dtype), &x = t.array(rows, width, dtype).random(1);
        std::vector<int64_t> samples, places;
        if (rows > 0) samples = {int64_t{1} << 40, 17, 3};
        for (int64_t row = 0; row < rows; ++row) {
          places.push_back(row % 2 == 0 ? 5 : int64_t{1} << 33);
          places.push_back(row == 1 ? -1 : 1000 * row + 3);
        }
        DropoutArgs args{.p = 0.3f, .key = 0x0123456789abcdef};
        auto count = static_cast<int64_t>(samples.size());
        t.run({&y}, {.bf16 = 0}, [&](const Kernels& k) {
          Tensor of = t(samples, {count});
          DropoutArgs with = args;
          with.samples = &of;
          k.dropout(t(y), t(x), with);
        });
        t.run({&x}, {.bf16 = 0}, [&](const Kernels& k) {
          Tensor at = t(places, {rows, 2});
          DropoutArgs with = args;
          with.places = &at;
          k.dropout(t(x), t(x), with);
        });
      }
}

void check_sums(const Machine& machine) {
  for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
    Trial t(machine);
    Array &x = t.array(rows, cols, dtype, cols + 3).random(1), &whole = t.array(rows, cols, dtype).random(2),
          &out = t.vector(cols), &number = t.vector(1, DType::kF64);
    double size = std::sqrt(static_cast<double>(rows)) + 1;
    t.run({&out}, {.scale = size}, [&](const Kernels& k) { k.sum_rows(t(out), t(x), false); });
    t.run({&out}, {.scale = size}, [&](const Kernels& k) { k.sum_rows(t(out), t(x), true); });
    t.run({&number}, {.f32 = 1e-9}, [&](const Kernels& k) { k.sum_squares(t(number), t(whole), false); });
    t.run({&number}, {.f32 = 1e-9}, [&](const Kernels& k) { k.sum_squares(t(number), t(whole), true); });
    if (dtype != DType::kF32) return;
    t.run({&number}, {.f32 = 1e-9}, [&](const Kernels& k) { k.sum(t(number), t(whole), false); });
    t.run({&number}, {.f32 = 1e-9}, [&](const Kernels& k) { k.sum(t(number), t(whole), true); });
  });
  Trial t(machine);
  Array &x = t.array(300, 333).random(1), &out = t.vector(333), &number = t.vector(1, DType::kF64);
  t.run({&out}, {.scale = 20}, [&](const Kernels& k) { k.sum_rows(t(out), t(x), false); });
  t.run({&number}, {.f32 = 1e-9}, [&](const Kernels& k) { k.sum_squares(t(number), t(x), false); });
}

void check_norms(const Machine& machine) {
  for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
    Trial t(machine);
    Array &y = t.array(rows, cols, dtype), &dx = t.array(rows, cols, dtype),
          &x = t.array(rows, cols, dtype).random(1, 2, 0.3), &dy = t.array(rows, cols, dtype).random(2),
          &w = t.vector(cols, dtype).random(3), &b = t.vector(cols, dtype).random(4), &mean = t.vector(rows),
          &rstd = t.vector(rows), &dw = t.vector(cols), &db = t.vector(cols);
    double size = 4 * std::sqrt(static_cast<double>(rows)) + 1;
    Trial::Expectation rows_summed{.f32 = dtype == DType::kBF16 ? 1e-3 : 1e-5, .scale = size};
    t.run({&y, &rstd}, [&](const Kernels& k) { k.rms_norm_forward(t(y), t(rstd), t(x), t(w), 1e-5f); });
    for (bool accumulate : {false, true})
      t.run({&dx, &dw}, rows_summed, [&](const Kernels& k) {
        k.rms_norm_backward(t(dx), accumulate, t(dw), accumulate, t(dy), t(x), t(rstd), t(w));
      });
    t.run({&dx}, [&](const Kernels& k) { k.rms_norm_backward(t(dx), true, {}, false, t(dy), t(x), t(rstd), t(w)); });
    t.run({&y, &rstd, &mean},
          [&](const Kernels& k) { k.layer_norm_forward(t(y), t(mean), t(rstd), t(x), t(w), t(b), 1e-5f); });
    for (bool accumulate : {false, true})
      t.run({&dx, &dw, &db}, rows_summed, [&](const Kernels& k) {
        k.layer_norm_backward(t(dx), accumulate, t(dw), t(db), accumulate, t(dy), t(x), t(mean), t(rstd), t(w));
      });
    t.run({&db, &dy}, rows_summed, [&](const Kernels& k) {
      k.layer_norm_backward(t(dy), false, {}, t(db), false, t(dy), t(x), t(mean), t(rstd), t(w));
    });
  });
  for (DType dtype : kTypes)
    for (int64_t head_dim : {4, 33, 64, 128})
      for (int64_t rows : {0, 1, 13}) {
        Trial t(machine);
        Array &x = t.array(rows, 5 * head_dim + (rows == 1 ? 7 : 8), dtype).random(1),
              &dx = t.array(rows, 5 * head_dim + (rows == 1 ? 7 : 8), dtype),
              &before = t.array(rows, 3 * head_dim, dtype), &rstd = t.array(rows, 3),
              &w = t.vector(head_dim, dtype).random(2), &dw = t.vector(head_dim);
        dx.random(3);
        Trial::Expectation summed{.f32 = dtype == DType::kBF16 ? 1e-3 : 1e-5, .scale = 10};
        t.run({&x, &before, &rstd},
              [&](const Kernels& k) { k.head_norm_forward(t(x), t(before), t(rstd), t(w), head_dim, 1e-6f); });
        for (bool accumulate : {false, true})
          t.run({&dx, &dw}, summed, [&](const Kernels& k) {
            k.head_norm_backward(t(dx), t(dw), accumulate, t(before), t(rstd), t(w), head_dim);
          });
        t.run({&dx}, [&](const Kernels& k) {
          k.head_norm_backward(t(dx), {}, false, t(before), t(rstd), t(w), 2 * head_dim);
        });
      }
}

void check_embedding(const Machine& machine) {
  for (DType dtype : kTypes)
    for (int64_t rows : {3, 40, 700})
      for (int64_t tokens : {0, 1, 9, 300, 1500})  // 1500: a sort in several chunks, a scan in several tiles
        for (int64_t width : {1, 64, 300}) {
          if (!machine.fast && tokens * width > 100000) continue;
          CAPTURE(rows);
          CAPTURE(tokens);
          CAPTURE(width);
          Trial t(machine);
          int64_t first = 10;
          Array &y = t.array(tokens, width, dtype), &table = t.array(rows, width, dtype).random(1),
                &id = ids(t.vector(tokens, DType::kI32), 5, 20 + rows), &dtable = t.array(rows, width);
          t.run({&y}, {.f32 = 0, .bf16 = 0},
                [&](const Kernels& k) { k.embedding_forward(t(y), t(id), t(table), first); });
          Trial::Expectation summed{.scale = 10};
          t.run({&dtable}, summed,
                [&](const Kernels& k) { k.embedding_backward(t(dtable), t(y), t(id), first, false); });
          t.run({&dtable}, summed,
                [&](const Kernels& k) { k.embedding_backward(t(dtable), t(y), t(id), first, true); });
        }
}

void check_rope(const Machine& machine) {
  for (DType dtype : kTypes)
    for (int64_t rows : {0, 1, 29})
      for (int64_t head_dim : {6, 64, 128})
        for (bool partial : {false, true}) {
          Trial t(machine);
          int64_t half = partial ? (head_dim + 2) / 4 : head_dim / 2, positions = 50;
          Array &x = t.array(rows, 3 * head_dim, dtype, 5 * head_dim + (partial ? 1 : 0)).random(1),
                &position = ids(t.vector(rows, DType::kI32), 0, positions), &cos = t.array(positions, half).random(2),
                &sin = t.array(positions, half).random(3);
          for (bool inverse : {false, true})
            t.run({&x}, [&](const Kernels& k) { k.rope(t(x), t(position), t(cos), t(sin), 2, head_dim, inverse); });
        }
}

void check_losses(const Machine& machine) {
  for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
    Trial t(machine);
    Array &losses = t.vector(rows), &logits = t.array(rows, cols, dtype).random(1, 4),
          &labels = ids(t.vector(rows, DType::kI32), -1, cols), &rounded = t.array(rows, cols, DType::kBF16);
    Trial::Expectation small{.scale = 0.5};
    t.run({&losses}, [&](const Kernels& k) { k.cross_entropy(t(losses), {}, t(logits), t(labels), false, 0.5f); });
    t.run({&losses, &rounded}, small,
          [&](const Kernels& k) { k.cross_entropy(t(losses), t(rounded), t(logits), t(labels), true, 0.5f); });
    t.run({&losses, &logits}, small,
          [&](const Kernels& k) { k.cross_entropy(t(losses), t(logits), t(logits), t(labels), true, 0.5f); });
  });
  for_shapes(machine, [&](int64_t rows, int64_t cols, DType dtype) {
    Trial t(machine);
    constexpr int64_t kRanks = 3;
    Array &losses = t.vector(rows), &logits = t.array(rows, cols).random(1, 4),
          &labels = ids(t.vector(rows, DType::kI32), -1, 3 * cols), &part = t.array(rows, 3),
          &parts = t.array(kRanks * rows, 3), &dlogits = t.array(rows, cols, dtype);
    parts.fill([](int64_t i) { return i % 3 == 0 ? static_cast<double>(i % 7) : 1.5 + static_cast<double>(i % 5); });
    t.run({&part}, [&](const Kernels& k) { k.cross_entropy_part(t(part), t(logits), t(labels), cols); });
    for (bool gradient : {false, true}) {
      auto run = [&](const Kernels& k) {
        Tensor label = t(labels);
        CrossEntropyArgs args{&label, cols, gradient, 0.25f};
        k.cross_entropy_join(t(losses), gradient ? t(dlogits) : Tensor(), t(logits),
                             t(parts).view(Shape{kRanks, rows, 3}), args);
      };
      if (gradient)
        t.run({&losses, &dlogits}, run);
      else
        t.run({&losses}, run);
    }
  });
}

void check_optimizer(const Machine& machine) {
  for (int64_t n : {0, 1, 7, 64, 1027})
    for (bool decoupled : {false, true})
      for (bool copied : {false, true}) {
        Trial t(machine);
        Array &p = t.vector(n).random(1), &m = t.vector(n).random(2, 0.1), &v = t.vector(n).random(3, 0.01, 0.2),
              &g = t.vector(n).random(4), &copy = t.vector(copied ? n : 0, DType::kBF16);
        v.fill([&](int64_t i) { return std::abs(v.get(i)); });
        AdamArgs args{.lr = 1e-2, .weight_decay = 0.1, .decoupled = decoupled, .step = 3, .grad_scale = 0.7f};
        t.run({&p, &m, &v, &copy},
              [&](const Kernels& k) { k.adam(t(p), t(m), t(v), t(g), copied ? t(copy) : Tensor(), args); });
      }
}

}  // namespace automodel::ops::test

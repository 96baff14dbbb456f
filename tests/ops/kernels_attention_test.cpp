// Attention of every instruction set against a plain double-precision softmax attention with the full score matrix.
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "core/rng.h"
#include "ops/cpu/sets.h"

using namespace automodel;
using namespace automodel::ops;

namespace {

struct Case {
  int64_t batch = 1, sequence = 1;
  HeadLayout layout;
  int64_t window = 0;
  bool documents = false;
  float dropout = 0;
};

std::string describe(const Case& c) {
  return "batch " + std::to_string(c.batch) + ", sequence " + std::to_string(c.sequence) + ", heads " +
         std::to_string(c.layout.heads) + "/" + std::to_string(c.layout.kv_heads) + " x " +
         std::to_string(c.layout.head_dim) + ", window " + std::to_string(c.window) +
         (c.documents ? ", documents" : "") + ", dropout " + std::to_string(c.dropout);
}

// Memory with a border that a kernel must leave alone, poisoned throughout.
class Buffer {
 public:
  Buffer(Shape shape, DType dtype) : shape_(shape), dtype_(dtype), bytes_(shape.numel() * size_of(dtype)) { poison(); }
  void poison() { memory_.assign(bytes_ + 2 * kBorder, 0xff); }  // NaN in f32 and bf16
  Tensor tensor() { return Tensor::wrap(memory_.data() + kBorder, shape_, dtype_); }
  bool border_untouched() const {
    return std::all_of(memory_.begin(), memory_.begin() + kBorder, [](uint8_t x) { return x == 0xff; }) &&
           std::all_of(memory_.end() - kBorder, memory_.end(), [](uint8_t x) { return x == 0xff; });
  }
  std::vector<double> values() {
    std::vector<double> v(shape_.numel());
    Tensor t = tensor();
    for (size_t i = 0; i < v.size(); ++i)
      v[i] = dtype_ == DType::kF32 ? t.data<float>()[i] : to_float(t.data<bf16>()[i]);
    return v;
  }
  std::vector<uint8_t> bits() const { return {memory_.begin() + kBorder, memory_.end() - kBorder}; }
  void set(const std::vector<double>& values) {
    Tensor t = tensor();
    for (size_t i = 0; i < values.size(); ++i)
      if (dtype_ == DType::kF32)
        t.data<float>()[i] = static_cast<float>(values[i]);
      else
        t.data<bf16>()[i] = to_bf16(static_cast<float>(values[i]));
  }
  void fill(const Random& random) {
    std::vector<double> values(shape_.numel());
    for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
    set(values);
  }

 private:
  static constexpr int64_t kBorder = 256;
  Shape shape_;
  DType dtype_;
  int64_t bytes_;
  std::vector<uint8_t> memory_;
};

struct Run {
  Run(const Case& c, DType dtype)
      : args{.batch = c.batch,
             .sequence = c.sequence,
             .layout = c.layout,
             .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.layout.head_dim))),
             .window = c.window},
        qkv({c.batch * c.sequence, c.layout.width()}, dtype),
        dout({c.batch * c.sequence, c.layout.heads * c.layout.head_dim}, dtype),
        out({c.batch * c.sequence, c.layout.heads * c.layout.head_dim}, dtype),
        lse({c.batch, c.layout.heads, c.sequence}, DType::kF32),
        dqkv({c.batch * c.sequence, c.layout.width()}, dtype) {
    qkv.fill(Random(1, "qkv"));
    dout.fill(Random(1, "dout"));
    // Documents of 1 to 40 tokens.
    Random random(1, "documents");
    starts.resize(c.batch * c.sequence);
    for (int64_t row = 0; row < c.batch; ++row)
      for (int64_t begin = 0; begin < c.sequence;) {
        int64_t end = std::min<int64_t>(c.sequence, begin + 1 + random.below(40, row * c.sequence + begin));
        for (int64_t i = begin; i < end; ++i) starts[row * c.sequence + i] = static_cast<int32_t>(begin);
        begin = end;
      }
    start_tensor = Tensor::wrap(starts.data(), {c.batch, c.sequence}, DType::kI32);
    if (c.documents) args.document_start = &start_tensor;
    for (int64_t row = 0; row < c.batch; ++row) samples.push_back(row * 0x123456789 + 3);
    sample_tensor = Tensor::wrap(samples.data(), {c.batch}, DType::kI64);
    args.dropout = {c.dropout, 0x0123456789abcdef, &sample_tensor};
  }
  Run(const Run&) = delete;

  HeadColumns in() { return fused_columns(qkv.tensor(), args.layout); }
  void forward(const Kernels& kernels) { kernels.attention_forward(out.tensor(), lse.tensor(), in(), args, false); }
  void backward(const Kernels& kernels) {
    AttentionGradients to{fused_columns(dqkv.tensor(), args.layout)};
    kernels.attention_backward(to, dout.tensor(), in(), out.tensor(), lse.tensor(), args);
  }
  bool sees(int64_t row, int64_t i, int64_t j) const {
    if (j > i || (args.window > 0 && j <= i - args.window)) return false;
    return args.document_start == nullptr || j >= starts[row * args.sequence + i];
  }

  // What dropout multiplies a weight by, from its definition.
  double factor(int64_t row, int64_t h, int64_t i, int64_t j) const {
    if (args.dropout.p == 0) return 1;
    double threshold = std::round(static_cast<double>(args.dropout.p) * 0x1p32);
    auto sample = static_cast<uint64_t>(samples[row]);
    auto words = philox({static_cast<uint32_t>(i), static_cast<uint32_t>(j / 4), static_cast<uint32_t>(sample),
                         static_cast<uint32_t>(h + 65536 * (sample >> 32))},
                        {static_cast<uint32_t>(args.dropout.key), static_cast<uint32_t>(args.dropout.key >> 32)});
    return words[j % 4] < threshold ? 0 : 1 / (1 - threshold * 0x1p-32);
  }

  AttentionArgs args;
  std::vector<int32_t> starts;
  std::vector<int64_t> samples;
  Tensor start_tensor, sample_tensor;
  Buffer qkv, dout, out, lse, dqkv;
};

struct Expected {
  std::vector<double> out, lse, dqkv;
};

// Leaves the expected outputs, rounded, in run.out and run.lse: the gradients are those of a backward that is given
// them, with delta = rowsum(dout * out) of the rounded outputs.
Expected reference(Run& run) {
  const AttentionArgs& a = run.args;
  const HeadLayout& layout = a.layout;
  int64_t d = layout.head_dim, width = layout.width(), out_width = layout.heads * d, sequence = a.sequence;
  std::vector<double> qkv = run.qkv.values(), dout = run.dout.values(), p(sequence);
  Expected e;
  e.out.assign(dout.size(), 0);
  e.lse.assign(a.batch * layout.heads * sequence, 0);
  e.dqkv.assign(qkv.size(), 0);
  bool rounds = run.out.tensor().dtype() == DType::kBF16;
  for (int64_t task = 0; task < a.batch * layout.heads * sequence; ++task) {
    int64_t row = task / (layout.heads * sequence), h = task / sequence % layout.heads, i = task % sequence;
    int64_t kv = h / (layout.heads / layout.kv_heads), first = row * sequence, token = first + i;
    int64_t k_at = (layout.heads + kv) * d, v_at = k_at + layout.kv_heads * d;
    const double* q = &qkv[token * width + h * d];
    const double* g = &dout[token * out_width + h * d];
    double highest = -std::numeric_limits<double>::infinity(), total = 0, delta = 0;
    for (int64_t j = 0; j <= i; ++j) {
      if (!run.sees(row, i, j)) continue;
      double s = 0;
      for (int64_t c = 0; c < d; ++c) s += q[c] * qkv[(first + j) * width + k_at + c];
      p[j] = s * a.scale;
      highest = std::max(highest, p[j]);
    }
    for (int64_t j = 0; j <= i; ++j)
      if (run.sees(row, i, j)) total += p[j] = std::exp(p[j] - highest);
    e.lse[(row * layout.heads + h) * sequence + i] = highest + std::log(total);
    double* out = &e.out[token * out_width + h * d];
    for (int64_t j = 0; j <= i; ++j) {
      if (!run.sees(row, i, j)) continue;
      double kept = run.factor(row, h, i, j) * p[j] / total;
      for (int64_t c = 0; c < d; ++c) out[c] += kept * qkv[(first + j) * width + v_at + c];
    }
    for (int64_t c = 0; c < d; ++c) {
      float rounded = static_cast<float>(out[c]);
      delta += g[c] * (rounds ? to_float(to_bf16(rounded)) : rounded);
    }
    for (int64_t j = 0; j <= i; ++j) {
      if (!run.sees(row, i, j)) continue;
      const double* k = &qkv[(first + j) * width + k_at];
      const double* v = &qkv[(first + j) * width + v_at];
      double weight = p[j] / total, dp = 0, kept = run.factor(row, h, i, j);
      for (int64_t c = 0; c < d; ++c) dp += kept * g[c] * v[c];
      double ds = weight * (dp - delta) * a.scale;
      for (int64_t c = 0; c < d; ++c) {
        e.dqkv[token * width + h * d + c] += ds * k[c];
        e.dqkv[(first + j) * width + k_at + c] += ds * q[c];
        e.dqkv[(first + j) * width + v_at + c] += kept * weight * g[c];
      }
    }
  }
  run.out.set(e.out);
  run.lse.set(e.lse);
  return e;
}

// The largest |got - want| beyond `relative` * |want|, as a share of the largest |want|; infinite for NaN.
double excess(const std::vector<double>& got, const std::vector<double>& want, double relative) {
  REQUIRE(got.size() == want.size());
  double largest = 1e-30, worst = 0;
  for (double x : want) largest = std::max(largest, std::abs(x));
  for (size_t i = 0; i < got.size(); ++i) {
    double over = std::abs(got[i] - want[i]) - relative * std::abs(want[i]);
    if (!(over <= worst)) worst = std::isnan(over) ? std::numeric_limits<double>::infinity() : over;
  }
  return worst / largest;
}

// fp32 sums everywhere: outputs are off by 1e-5 of the largest, after one rounding to bf16 (at most 2^-8 of the value).
// The set that multiplies bf16 also rounds the softmax weights and their slopes, each by at most 2^-9 of itself.
void check_case(const Case& c, DType dtype) {
  CAPTURE(describe(c));
  Run run(c, dtype);
  Expected want = reference(run);
  std::vector<double> out = run.out.values(), lse = run.lse.values();
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    CAPTURE(std::string(set.name));
    double rounding = dtype == DType::kBF16 ? 0x1p-8 : 0;
    double tolerance = dtype == DType::kBF16 && set.name == "v4bf16" ? 4e-3 : 1e-5;
    run.dqkv.poison();
    run.out.set(out);
    run.lse.set(lse);
    run.backward(*set.kernels);
    run.out.poison();
    run.lse.poison();
    run.forward(*set.kernels);
    CHECK(excess(run.out.values(), want.out, rounding) < tolerance);
    CHECK(excess(run.lse.values(), want.lse, 0) < 1e-5);
    CHECK(excess(run.dqkv.values(), want.dqkv, rounding) < tolerance);
    CHECK((run.out.border_untouched() && run.lse.border_untouched() && run.dqkv.border_untouched()));
  }
}

std::vector<Case> cases() {
  std::vector<Case> list;
  // Every sequence with every mask; the heads and dimensions take turns.
  const HeadLayout layouts[] = {{2, 1, 16}, {4, 1, 20}, {2, 2, 8}, {4, 2, 32}, {1, 1, 48}, {3, 3, 64}};
  size_t turn = 0;
  for (int64_t sequence : {1, 2, 7, 33, 65, 129, 200})
    for (int64_t window : {0, 1, 5, 64})
      for (bool documents : {false, true})
        list.push_back({.batch = 1 + static_cast<int64_t>(turn % 3),
                        .sequence = sequence,
                        .layout = layouts[turn % std::size(layouts)],
                        .window = window,
                        .documents = documents}),
            ++turn;
  for (int64_t head_dim : {1, 3, 8, 16, 20, 32, 48, 64, 72, 80, 96, 100, 128, 192, 256})
    list.push_back({.batch = 2, .sequence = 130, .layout = {2, 1, head_dim}, .window = 70});
  for (int64_t sequence : {1, 3, 63, 64, 130, 200})
    for (int64_t window : {0, 37})
      for (bool documents : {false, true})
        list.push_back({.batch = 3,
                        .sequence = sequence,
                        .layout = layouts[turn++ % std::size(layouts)],
                        .window = window,
                        .documents = documents,
                        .dropout = 0.3f});
  return list;
}

void for_each_set(void (*body)(const Kernels&)) {
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    CAPTURE(std::string(set.name));
    body(*set.kernels);
  }
}

// Restores the number of threads at the end of a test.
struct Threads {
  int before = omp_get_max_threads();
  ~Threads() { omp_set_num_threads(before); }
};

}  // namespace

TEST_CASE("attention in fp32 agrees with double precision, forward and backward") {
  for (const Case& c : cases()) check_case(c, DType::kF32);
}

TEST_CASE("attention in bf16 rounds its outputs, and where bf16 is multiplied its weights, once") {
  for (const Case& c : cases()) check_case(c, DType::kBF16);
}

TEST_CASE("attention gives the same bits on one, two, three and eight threads") {
  for_each_set([](const Kernels& kernels) {
    Threads threads;
    // One, two and five units of (batch row, key/value head): whole, split and both.
    for (const Case& c : {Case{.batch = 1, .sequence = 300, .layout = {4, 1, 40}},
                          Case{.batch = 2, .sequence = 200, .layout = {2, 1, 64}, .window = 50, .documents = true},
                          Case{.batch = 5, .sequence = 129, .layout = {1, 1, 16}, .documents = true},
                          Case{.batch = 2, .sequence = 150, .layout = {2, 1, 24}, .dropout = 0.5f}})
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        CAPTURE(describe(c));
        omp_set_num_threads(1);
        Run first(c, dtype);
        first.forward(kernels);
        first.backward(kernels);
        for (int count : {2, 3, 8}) {
          CAPTURE(count);
          omp_set_num_threads(count);
          Run run(c, dtype);
          run.forward(kernels);
          run.backward(kernels);
          CHECK(run.out.bits() == first.out.bits());
          CHECK(run.lse.bits() == first.lse.bits());
          CHECK(run.dqkv.bits() == first.dqkv.bits());
        }
      }
  });
}

TEST_CASE("the attention gradient predicts what a small step changes") {
  for_each_set([](const Kernels& kernels) {
    for (float dropout : {0.0f, 0.4f}) {
      Case c{.batch = 2, .sequence = 90, .layout = {4, 2, 24}, .window = 40, .documents = true, .dropout = dropout};
      Run run(c, DType::kF32);
      run.forward(kernels);
      run.backward(kernels);
      std::vector<double> gradient = run.dqkv.values(), before = run.qkv.values(), dout = run.dout.values();
      Random random(1, "direction");
      double predicted = 0;
      for (size_t i = 0; i < gradient.size(); ++i) predicted += gradient[i] * random.normal(i);
      auto loss = [&](double step) {
        for (size_t i = 0; i < before.size(); ++i)
          run.qkv.tensor().data<float>()[i] = static_cast<float>(before[i] + step * random.normal(i));
        run.forward(kernels);
        std::vector<double> out = run.out.values();
        double sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
        return sum;
      };
      double step = 1e-3, measured = (loss(step) - loss(-step)) / (2 * step);
      CHECK(std::abs(measured - predicted) < 2e-3 * std::abs(predicted));
    }
  });
}

TEST_CASE("attention of large scores neither overflows nor loses its weights") {
  Run run({.batch = 1, .sequence = 150, .layout = {1, 1, 32}}, DType::kF32);
  std::vector<double> qkv = run.qkv.values();
  for (size_t i = 0; i < qkv.size(); ++i)
    if (i % 96 < 64) qkv[i] *= 30;  // scores of some thousands, which fp32 knows to 2.5e-4
  run.qkv.set(qkv);
  Expected want = reference(run);
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    CAPTURE(std::string(set.name));
    run.forward(*set.kernels);
    run.backward(*set.kernels);
    CHECK(excess(run.out.values(), want.out, 0) < 2e-3);
    CHECK(excess(run.lse.values(), want.lse, 0) < 1e-6);
    CHECK(excess(run.dqkv.values(), want.dqkv, 0) < 2e-3);
  }
}

TEST_CASE("attention over no rows does nothing") {
  for_each_set([](const Kernels& kernels) {
    Run run({.batch = 0, .sequence = 16, .layout = {2, 1, 16}}, DType::kF32);
    run.forward(kernels);
    run.backward(kernels);
    CHECK((run.out.border_untouched() && run.lse.border_untouched() && run.dqkv.border_untouched()));
  });
}

// AddressSanitizer keeps memory of its own, which this would count.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
namespace {

int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  return -1;
}

}  // namespace

TEST_CASE("attention needs memory linear in the sequence") {
  Case c{.batch = 1, .sequence = 2048, .layout = {1, 1, 64}};
  Run run(c, DType::kF32);
  int64_t growth = -1;
  // A thread of its own has no scratch yet. Writing 5 sets the peak of the process back to what it holds now.
  std::thread([&] {
    omp_set_num_threads(1);
    std::ofstream reset("/proc/self/clear_refs");
    if (!(reset << 5 << std::flush)) return;
    int64_t before = status_bytes("VmRSS:");
    run.forward(cpu::table());
    run.backward(cpu::table());
    growth = status_bytes("VmHWM:") - before;
  }).join();
  if (growth < 0) {
    MESSAGE("skipped: the peak memory of a process cannot be reset here");
    return;
  }
  // One score matrix would be 16 MiB. The outputs are in place (poisoned); scratch and dK, dV take 2 MiB.
  CHECK(growth < int64_t{6} << 20);
}
#endif

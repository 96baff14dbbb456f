// What the kernel tests share: arrays with poisoned memory and guarded borders, and a runner that holds every
// instruction set of the machine, on one, two and three threads, to one expectation.
#pragma once

#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/rng.h"
#include "ops/cpu/sets.h"
#include "tensor/tensor.h"

namespace automodel::ops::test {

inline const std::vector<int64_t> kOddSizes{0, 1, 3, 17, 33, 257};

// A matrix whose rows lie `stride` apart, in memory that is NaN wherever nothing was set.
class Array {
 public:
  Array(int64_t rows, int64_t cols, DType dtype = DType::kF32, int64_t stride = 0)
      : rows_(rows), cols_(cols), stride_(std::max(cols, stride)), dtype_(dtype) {
    poison();
  }
  explicit Array(int64_t n, DType dtype = DType::kF32) : Array(1, n, dtype) { vector_ = true; }

  void poison() { memory_.assign(static_cast<size_t>(rows_ * stride_) * size_of(dtype_) + 2 * kBorder, 0xff); }

  Tensor tensor() { return tensor_at(memory_.data(), Device{}); }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }

  double get(int64_t row, int64_t col) const {
    const uint8_t* at = memory_.data() + kBorder + static_cast<size_t>(row * stride_ + col) * size_of(dtype_);
    switch (dtype_) {
      case DType::kF32:
        return read<float>(at);
      case DType::kBF16:
        return to_float(read<bf16>(at));
      case DType::kI32:
        return read<int32_t>(at);
      default:
        return read<double>(at);
    }
  }
  double get(int64_t i) const { return get(i / cols_, i % cols_); }

  void set(int64_t row, int64_t col, double value) {
    uint8_t* at = memory_.data() + kBorder + static_cast<size_t>(row * stride_ + col) * size_of(dtype_);
    switch (dtype_) {
      case DType::kF32:
        return write(at, static_cast<float>(value));
      case DType::kBF16:
        return write(at, to_bf16(static_cast<float>(value)));
      case DType::kI32:
        return write(at, static_cast<int32_t>(value));
      default:
        return write(at, value);
    }
  }
  void set(int64_t i, double value) { set(i / cols_, i % cols_, value); }

  template <class F>
  Array& fill(F&& value_at) {
    for (int64_t i = 0; i < rows_ * cols_; ++i) set(i, value_at(i));
    return *this;
  }
  Array& random(uint64_t stream, double scale = 1, double offset = 0) {
    Random random(1234, stream);
    return fill([&](int64_t i) { return offset + scale * random.normal(static_cast<uint64_t>(i)); });
  }
  std::vector<double> values() const {
    std::vector<double> v(static_cast<size_t>(rows_ * cols_));
    for (size_t i = 0; i < v.size(); ++i) v[i] = get(static_cast<int64_t>(i));
    return v;
  }
  void set_all(const std::vector<double>& values) {
    for (size_t i = 0; i < values.size(); ++i) set(static_cast<int64_t>(i), values[i]);
  }
  // All of the array's memory, with its borders and gaps.
  const std::vector<uint8_t>& memory() const { return memory_; }
  void set_memory(std::vector<uint8_t> memory) { memory_ = std::move(memory); }
  // The array in a copy of that memory.
  Tensor tensor_at(void* memory, Device device) const {
    void* numbers = static_cast<uint8_t*>(memory) + kBorder;
    if (vector_) return Tensor::wrap(numbers, Shape{cols_}, dtype_, device);
    return Tensor::wrap(numbers, Shape{rows_, stride_}, dtype_, device).columns(0, cols_);
  }

  // True when neither the borders nor the gaps between rows were written.
  bool surroundings_untouched() const {
    auto clean = [&](size_t begin, size_t end) {
      return std::all_of(memory_.begin() + static_cast<long>(begin), memory_.begin() + static_cast<long>(end),
                         [](uint8_t x) { return x == 0xff; });
    };
    size_t element = size_of(dtype_);
    bool ok = clean(0, kBorder) && clean(memory_.size() - kBorder, memory_.size());
    for (int64_t r = 0; ok && r < rows_; ++r)
      ok = clean(kBorder + static_cast<size_t>(r * stride_ + cols_) * element,
                 kBorder + static_cast<size_t>((r + 1) * stride_) * element);
    return ok;
  }

 private:
  static constexpr size_t kBorder = 256;
  template <class T>
  static T read(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
  }
  template <class T>
  static void write(uint8_t* at, T value) {
    std::memcpy(at, &value, sizeof(T));
  }
  int64_t rows_, cols_, stride_;
  DType dtype_;
  bool vector_ = false;
  std::vector<uint8_t> memory_;
};

// The largest error of an array against `expected`, as a multiple of what one rounding to its type may cost, relative
// to the size of each number plus `scale` (the size of the terms that were summed). NaN counts as infinite.
inline double worst_error(const Array& actual, const std::vector<double>& expected, double scale = 1) {
  double unit = actual.dtype() == DType::kBF16 ? 0x1p-8 : actual.dtype() == DType::kF64 ? 1e-12 : 1e-6;
  double worst = 0;
  for (int64_t i = 0; i < actual.rows() * actual.cols(); ++i) {
    double e = expected[static_cast<size_t>(i)];
    if (actual.get(i) == e) continue;
    double error = std::abs(actual.get(i) - e) / (unit * (std::abs(e) + scale));
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

// What the number of threads may change: nothing, or the last bits (a repetition must still give the same ones).
enum class ThreadsMayChange { kNothing, kLastBits };

// Runs `run(kernels)` on every set and on 1, 2 and 3 threads. `outputs` are poisoned first, then `prepare()` may set
// what a kernel adds to. `verify()` judges the outputs.
template <class Prepare, class Run, class Verify>
void on_every_set(const std::vector<Array*>& outputs, Prepare&& prepare, Run&& run, Verify&& verify,
                  ThreadsMayChange may_change = ThreadsMayChange::kNothing) {
  int threads_before = omp_get_max_threads();
  for (const cpu::KernelSet& set : cpu::runnable_sets()) {
    INFO("instruction set ", std::string(set.name));
    auto once = [&] {
      for (Array* output : outputs) output->poison();
      prepare();
      run(*set.kernels);
      std::vector<std::vector<uint8_t>> memories;
      for (Array* output : outputs) {
        CHECK(output->surroundings_untouched());
        memories.push_back(output->memory());
      }
      return memories;
    };
    std::vector<std::vector<uint8_t>> first;
    for (int threads = 1; threads <= 3; ++threads) {
      omp_set_num_threads(threads);
      if (threads == 1 || may_change == ThreadsMayChange::kLastBits) {
        first = once();
        verify();
      }
      if (threads > 1) CHECK((once() == first));
    }
  }
  omp_set_num_threads(threads_before);
}
template <class Run, class Verify>
void on_every_set(const std::vector<Array*>& outputs, Run&& run, Verify&& verify) {
  on_every_set(
      outputs, [] {}, run, verify);
}

}  // namespace automodel::ops::test

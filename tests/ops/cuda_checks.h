// Holds the kernels of a device to those of the CPU: the same inputs to both, outputs poisoned, memory around them
// guarded, every run of the device repeated to the bit. The device may be a real one or an emulated one.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>

#include "ops/kernel_support.h"
#include "ops/kernels.h"

namespace automodel::ops::test {

// Memory and kernels of a device. Copies wait until everything before them is done.
struct Machine {
  const Kernels& kernels;
  Device device;
  std::function<void*(size_t)> allocate;
  std::function<void(void*)> release;
  std::function<void(void* to, const void* from, size_t bytes)> upload;
  std::function<void(void* to, const void* from, size_t bytes)> download;
  // Called before each of the two runs of a kernel whose results must be the same, with 0 and 1.
  std::function<void(int)> before_run = [](int) {};
  bool fast = false;  // a real device: large shapes, too
};

// Each group of kernels.
void check_elementwise(const Machine& machine);
void check_activations(const Machine& machine);
void check_dropout(const Machine& machine);
void check_products(const Machine& machine);
void check_sums(const Machine& machine);
void check_norms(const Machine& machine);
void check_embedding(const Machine& machine);
void check_rope(const Machine& machine);
void check_losses(const Machine& machine);
void check_optimizer(const Machine& machine);
void check_experts(const Machine& machine);
void check_decoding(const Machine& machine);
void check_attention(const Machine& machine);

// All of them, for a test that runs each by its name.
struct Check {
  const char* name;
  void (*run)(const Machine&);
};
std::span<const Check> checks();

// One call of a kernel with its arrays, on the CPU and on the device.
class Trial {
 public:
  explicit Trial(const Machine& machine) : machine_(&machine) {}
  Trial(const Trial&) = delete;

  // Arrays are on the host until run() copies them; an output begins as NaN everywhere unless it is filled.
  Array& array(int64_t rows, int64_t cols, DType dtype = DType::kF32, int64_t stride = 0) {
    return arrays_.emplace_back(rows, cols, dtype, stride);
  }
  Array& vector(int64_t n, DType dtype = DType::kF32) { return arrays_.emplace_back(n, dtype); }

  // The tensor of an array, on whichever side run() is at. Other elements: i64 numbers, which kernels only read.
  Tensor operator()(Array& array);
  Tensor operator()(const std::vector<int64_t>& numbers, Shape shape);

  struct Expectation {
    double f32 = 1e-5;     // relative to each number and to `scale`
    double bf16 = 0x1p-8;  // likewise, and one rounding more
    double scale = 1;      // the size of the terms that were summed
  };
  // Runs f(kernels) on both sides and holds `outputs` of the device to those of the CPU. Other arrays must be as
  // before.
  void run(std::initializer_list<Array*> outputs, const Expectation& expected,
           const std::function<void(const Kernels&)>& f);
  void run(std::initializer_list<Array*> outputs, const std::function<void(const Kernels&)>& f) {
    run(outputs, Expectation{}, f);
  }

 private:
  struct Mirror {
    void* memory;
    size_t bytes;
  };
  std::vector<std::vector<uint8_t>> run_device(const std::function<void(const Kernels&)>& f);

  const Machine* machine_;
  std::deque<Array> arrays_;
  bool on_device_ = false;
  std::vector<Mirror> mirrors_;       // of arrays_
  std::vector<Mirror> other_memory_;  // of i64 numbers
};

// Sizes of matrices to try: odd ones, whole vectors, none; large ones on a fast machine.
struct Size {
  int64_t rows, cols;
};
std::vector<Size> sizes(const Machine& machine);

}  // namespace automodel::ops::test

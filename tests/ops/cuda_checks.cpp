#include "ops/cuda_checks.h"

namespace automodel::ops::test {
namespace {

// How far `actual` is from `expected`, as a multiple of what may be.
double excess(const Array& actual, const Array& expected, const Trial::Expectation& may) {
  double worst = 0;
  for (int64_t i = 0; i < actual.rows() * actual.cols(); ++i) {
    double got = actual.get(i), want = expected.get(i);
    if (got == want || (std::isnan(got) && std::isnan(want))) continue;
    double relative = 0;
    switch (actual.dtype()) {
      case DType::kF32:
        relative = may.f32;
        break;
      case DType::kBF16:
        relative = may.bf16;
        break;
      case DType::kF64:
        relative = may.f32 * 1e-3;
        break;
      default:
        break;
    }
    // A bf16 number may in addition be rounded to the other side.
    double allowed =
        relative * (std::abs(want) + may.scale) + (actual.dtype() == DType::kBF16 ? 0x1p-8 : 0) * std::abs(want);
    double error = allowed == 0 ? INFINITY : std::abs(got - want) / allowed;
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

}  // namespace

std::span<const Check> checks() {
  static constexpr Check kChecks[] = {
      {"elementwise kernels agree with the CPU's", check_elementwise},
      {"activations agree with the CPU's", check_activations},
      {"dropout drops what the CPU drops", check_dropout},
      {"products agree with the CPU's", check_products},
      {"sums agree with the CPU's", check_sums},
      {"norms agree with the CPU's", check_norms},
      {"embeddings and their gradients agree with the CPU's", check_embedding},
      {"rotary embeddings agree with the CPU's", check_rope},
      {"losses and their gradients agree with the CPU's", check_losses},
      {"the optimizer's update agrees with the CPU's", check_optimizer},
      {"experts are chosen and served as on the CPU", check_experts},
      {"decoding agrees with the CPU's", check_decoding},
      {"attention and its gradients agree with the CPU's", check_attention},
  };
  return kChecks;
}

std::vector<Size> sizes(const Machine& machine) {
  std::vector<Size> list;
  for (int64_t rows : {0, 1, 5, 67})
    for (int64_t cols : {1, 8, 33, 64, 515, 1024}) list.push_back({rows, cols});
  if (machine.fast) list.insert(list.end(), {{3, 128257}, {2, 151936}, {1000, 4096}, {2051, 1536}, {70001, 17}});
  return list;
}

Tensor Trial::operator()(Array& array) {
  if (!on_device_) return array.tensor();
  for (size_t i = 0; i < arrays_.size(); ++i)
    if (&arrays_[i] == &array) return array.tensor_at(mirrors_[i].memory, machine_->device);
  return {};
}

Tensor Trial::operator()(const std::vector<int64_t>& numbers, Shape shape) {
  void* data = const_cast<int64_t*>(numbers.data());
  if (!on_device_) return Tensor::wrap(data, shape, DType::kI64);
  size_t bytes = numbers.size() * sizeof(int64_t);
  Mirror copy{machine_->allocate(bytes + 1), bytes};
  machine_->upload(copy.memory, data, bytes);
  other_memory_.push_back(copy);
  return Tensor::wrap(copy.memory, shape, DType::kI64, machine_->device);
}

std::vector<std::vector<uint8_t>> Trial::run_device(const std::function<void(const Kernels&)>& f) {
  on_device_ = true;
  for (const Array& array : arrays_) {
    Mirror copy{machine_->allocate(array.memory().size()), array.memory().size()};
    machine_->upload(copy.memory, array.memory().data(), copy.bytes);
    mirrors_.push_back(copy);
  }
  f(machine_->kernels);
  std::vector<std::vector<uint8_t>> memories;
  for (const Mirror& copy : mirrors_) {
    memories.emplace_back(copy.bytes);
    machine_->download(memories.back().data(), copy.memory, copy.bytes);
    machine_->release(copy.memory);
  }
  for (const Mirror& copy : other_memory_) machine_->release(copy.memory);
  mirrors_.clear();
  other_memory_.clear();
  on_device_ = false;
  return memories;
}

void Trial::run(std::initializer_list<Array*> outputs, const Expectation& expected,
                const std::function<void(const Kernels&)>& f) {
  machine_->before_run(0);
  std::vector<std::vector<uint8_t>> memories = run_device(f);
  machine_->before_run(1);
  CHECK((run_device(f) == memories));
  auto is_output = [&](const Array& array) {
    return std::find(outputs.begin(), outputs.end(), &array) != outputs.end();
  };
  for (size_t i = 0; i < arrays_.size(); ++i)
    if (!is_output(arrays_[i])) CHECK((memories[i] == arrays_[i].memory()));
  f(cpu::table());
  for (size_t i = 0; i < arrays_.size(); ++i) {
    if (!is_output(arrays_[i])) continue;
    Array got = arrays_[i];
    got.set_memory(std::move(memories[i]));
    CAPTURE(i);
    CHECK(got.surroundings_untouched());
    CHECK(excess(got, arrays_[i], expected) <= 1);
  }
}

}  // namespace automodel::ops::test

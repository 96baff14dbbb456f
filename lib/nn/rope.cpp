#include "nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace automodel::nn {
namespace {

// Llama 3.1: frequencies whose wavelength exceeds original/low are divided by factor, those below original/high are
// kept, in between the two are blended linearly in original/wavelength.
float llama3(float frequency, const RopeScaling& s) {
  auto original = static_cast<double>(s.original_max_position);
  double wavelength = 2 * std::numbers::pi / static_cast<double>(frequency);
  if (wavelength < original / s.high_freq_factor) return frequency;
  if (wavelength > original / s.low_freq_factor) return static_cast<float>(frequency / s.factor);
  double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return static_cast<float>((1 - smooth) * (frequency / s.factor) + smooth * frequency);
}

}  // namespace

std::vector<float> rope_frequencies(int64_t rotary, double theta, const RopeScaling& scaling) {
  std::vector<float> out;
  for (int64_t i = 0; i < rotary; i += 2) {
    float exponent = static_cast<float>(i) / static_cast<float>(rotary);
    float f = 1.0f / std::pow(static_cast<float>(theta), exponent);
    if (scaling.kind == RopeScaling::Kind::kLinear) f = static_cast<float>(f / scaling.factor);
    if (scaling.kind == RopeScaling::Kind::kLlama3) f = llama3(f, scaling);
    out.push_back(f);
  }
  return out;
}

ops::RopeTable Rope::table(int64_t positions, Allocator& allocator) {
  if (table_.cos.defined() && table_.cos.size(0) >= positions) return table_;
  auto half = static_cast<int64_t>(frequencies_.size());
  table_.cos = Tensor::empty({positions, half}, DType::kF32, allocator, MemoryClass::kWorkspace);
  table_.sin = Tensor::empty({positions, half}, DType::kF32, allocator, MemoryClass::kWorkspace);
  if (table_.cos.device().is_meta()) return table_;
  std::vector<float> cos(static_cast<size_t>(positions * half));
  std::vector<float> sin(cos.size());
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < half; ++i) {
      double angle = static_cast<float>(p) * frequencies_[static_cast<size_t>(i)];
      cos[static_cast<size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
      sin[static_cast<size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
    }
  upload(table_.cos, cos);
  upload(table_.sin, sin);
  return table_;
}

}  // namespace automodel::nn

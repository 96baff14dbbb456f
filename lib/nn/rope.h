// The frequencies of rotary positions, with the scalings that Hugging Face configs name in
// `rope_scaling`/`rope_parameters`.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/attention.h"

namespace automodel::nn {

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;
  // llama3 only (Llama 3.1's scheme: long wavelengths are stretched by `factor`, short ones kept, a ramp between).
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position = 8192;
};

// rotary / 2 angular frequencies, fp32 as Hugging Face computes them.
std::vector<float> rope_frequencies(int64_t rotary, double theta, const RopeScaling& scaling);

// cos and sin for positions 0..n-1, made when first asked for and again when more positions are needed. One per model.
class Rope {
 public:
  Rope(int64_t rotary, double theta, const RopeScaling& scaling)
      : frequencies_(rope_frequencies(rotary, theta, scaling)) {}
  // A table of at least `positions` rows. The returned handle stays valid when a larger one is made.
  ops::RopeTable table(int64_t positions, Allocator& allocator);
  // Drops the table (its allocator is about to go).
  void clear() { table_ = {}; }

 private:
  std::vector<float> frequencies_;
  ops::RopeTable table_;
};

}  // namespace automodel::nn

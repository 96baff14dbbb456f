// A named weight and the declaration of what it is: enough to plan, initialise, load, shard and save it without memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "core/shape.h"

namespace automodel::nn {

// How a weight starts in a model made from a config: a function of (seed, name, element) alone, so the same on any
// mesh.
struct Init {
  enum class Kind { kNormal, kZeros, kOnes };
  Kind kind = Kind::kZeros;
  float std = 0;
  static Init normal(float std) { return {Kind::kNormal, std}; }
  static Init zeros() { return {Kind::kZeros, 0}; }
  static Init ones() { return {Kind::kOnes, 0}; }
};

struct Param : autograd::Param {
  Param(std::string param_name, Shape param_shape, Init param_init)
      : name(std::move(param_name)), shape(param_shape), init(param_init) {}

  std::string name;  // the Hugging Face name
  Shape shape;       // of the whole weight
  Init init;
};

// Writes elements [begin, end) (row-major, of the whole weight) of the initial value to `out` (fp32).
void initialise(const Param& param, uint64_t seed, int64_t begin, int64_t end, float* out);

int64_t count_elements(const std::vector<Param*>& params);

}  // namespace automodel::nn

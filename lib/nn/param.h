// A named weight and the declaration of what it is: enough to plan, initialise, load, shard and save it without memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "core/interval.h"
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

// How tensor-parallel ranks cut a weight (Shoeybi et al., "Megatron-LM", 2019): along `dim`, which consists of `parts`
// side by side (q, k and v of a fused projection), each cut on its own. A part is `units` equal pieces that stay whole
// (heads). Rank r of n has the r-th ceil(units / n) of them; when there are fewer units than ranks, n / units
// neighbours share one.
struct SplitPart {
  int64_t extent = 0;  // along dim
  int64_t units = 1;
};
struct Split {
  int dim = -1;  // -1: every rank has the whole weight
  std::vector<SplitPart> parts;
  bool inputs = false;  // dim is what the product sums over, so each rank has a part of the sum
};

// What a tensor-parallel rank computes of the gradient of what it has in common with other ranks.
enum class CommonGradient {
  kWhole,   // each of them all of it, the same
  kPartial  // a part: the gradient is the sum over them
};

struct Param : autograd::Param {
  Param(std::string param_name, Shape param_shape, Init param_init)
      : name(std::move(param_name)), shape(param_shape), init(param_init) {}

  std::string name;  // the Hugging Face name
  Shape shape;       // of the whole weight
  Init init;

  Split split;
  CommonGradient common = CommonGradient::kWhole;
  // Of a weight that every rank has: partial when the ranks divide the rows among them (sequence parallelism).
  bool acts_on_rows = false;
  int expert = -1;  // routed expert that the weight belongs to; -1: none

  // Gives this rank its part. Error(kBug): the split cannot be made.
  void place(int rank, int size);
  // What place() found. `kept`: along split.dim, the rank's intervals; empty: all of it.
  std::vector<Interval> kept;
  int sharers = 1;  // ranks that have the same part, this one included
  int sharer = 0;   // the number of this one among them

  Shape local_shape() const;  // of the rank's part: the shape of `value` and `grad`
};

// Elements [local, local + count) of a rank's part are elements [whole, whole + count) of the weight, both row-major.
struct ElementRun {
  int64_t local = 0;
  int64_t whole = 0;
  int64_t count = 0;
};
// Elements [begin, end) of the rank's part, in ascending order.
std::vector<ElementRun> runs_of(const Param& param, int64_t begin, int64_t end);

// Writes elements [begin, end) of the rank's part of the initial value to `out` (fp32).
void initialise(const Param& param, uint64_t seed, int64_t begin, int64_t end, float* out);

// Of the whole weights.
int64_t count_elements(const std::vector<Param*>& params);

}  // namespace automodel::nn

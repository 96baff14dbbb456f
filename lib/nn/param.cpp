#include "nn/param.h"

#include <algorithm>

#include "core/rng.h"

namespace automodel::nn {

void initialise(const Param& param, uint64_t seed, int64_t begin, int64_t end, float* out) {
  switch (param.init.kind) {
    case Init::Kind::kZeros:
      std::fill(out, out + (end - begin), 0.0f);
      return;
    case Init::Kind::kOnes:
      std::fill(out, out + (end - begin), 1.0f);
      return;
    case Init::Kind::kNormal:
      break;
  }
  Random random(seed, hash_name(param.name));
#pragma omp parallel for schedule(static) if (end - begin > 4096)
  for (int64_t i = begin; i < end; ++i) out[i - begin] = param.init.std * random.normal(static_cast<uint64_t>(i));
}

int64_t count_elements(const std::vector<Param*>& params) {
  int64_t n = 0;
  for (const Param* p : params) n += p->shape.numel();
  return n;
}

}  // namespace automodel::nn

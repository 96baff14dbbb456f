#include "parallel/grad_norm.h"

#include <cmath>

#include "ops/kernels.h"

namespace automodel::parallel {

float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units, const DataRanks& ranks, Allocator& allocator) {
  const auto& k = ops::kernels(allocator.device());
  Tensor total = Tensor::zeros({1}, DType::kF64, allocator, MemoryClass::kWorkspace);
  for (const auto& unit : units) k.sum_squares(total, unit->gradient(), true);
  if (ranks.shard().size() > 1) ranks.shard().all_reduce({total.raw(), 1, DType::kF64}, comm::Reduce::kSum);
  if (allocator.device().is_meta()) return 0;
  return static_cast<float>(std::sqrt(*total.data<double>()));
}

float clip_coefficient(float norm, double max_norm) {
  if (max_norm <= 0) return 1;
  double coefficient = max_norm / (static_cast<double>(norm) + 1e-6);
  return coefficient < 1 ? static_cast<float>(coefficient) : (std::isnan(norm) ? norm : 1.0f);
}

}  // namespace automodel::parallel

#include "parallel/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "ops/kernels.h"

namespace automodel::parallel {

namespace {

void add_squares(const Tensor& total, const Unit& unit, const std::function<bool(const nn::Param&)>& counts) {
  const auto& k = ops::kernels(total.device());
  std::vector<Piece> pieces = unit.pieces();
  if (std::ranges::all_of(pieces, [&](const Piece& p) { return counts(*p.param); }))
    return k.sum_squares(total, unit.gradient(), true);
  for (const Piece& p : pieces)
    if (counts(*p.param)) k.sum_squares(total, unit.gradient().narrow(p.flat, p.end - p.begin), true);
}

}  // namespace

float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units,
                    const std::function<bool(const nn::Param&)>& counts, std::span<comm::Communicator* const> others,
                    Allocator& allocator) {
  std::vector<const DataRanks*> kinds;  // units of a kind have their shards on the same ranks
  for (const auto& unit : units)
    if (std::ranges::find(kinds, &unit->ranks()) == kinds.end()) kinds.push_back(&unit->ranks());
  Tensor all = Tensor::zeros({static_cast<int64_t>(kinds.size()) + 1}, DType::kF64, allocator, MemoryClass::kWorkspace);
  Tensor sum = all.narrow(0, 1);
  for (size_t i = 0; i < kinds.size(); ++i) {
    Tensor total = kinds.size() == 1 ? sum : all.narrow(static_cast<int64_t>(i) + 1, 1);
    for (const auto& unit : units)
      if (&unit->ranks() == kinds[i]) add_squares(total, *unit, counts);
    for (comm::Communicator* ranks : {&kinds[i]->shard(), kinds[i]->others()})
      if (ranks != nullptr && ranks->size() > 1) ranks->all_reduce({total.raw(), 1, DType::kF64}, comm::Reduce::kSum);
    if (kinds.size() > 1 && !allocator.device().is_meta()) *sum.data<double>() += *total.data<double>();
  }
  for (comm::Communicator* ranks : others)
    if (ranks != nullptr && ranks->size() > 1) ranks->all_reduce({sum.raw(), 1, DType::kF64}, comm::Reduce::kSum);
  if (allocator.device().is_meta()) return 0;
  return static_cast<float>(std::sqrt(*sum.data<double>()));
}

float clip_coefficient(float norm, double max_norm) {
  if (max_norm <= 0) return 1;
  double coefficient = max_norm / (static_cast<double>(norm) + 1e-6);
  return coefficient < 1 ? static_cast<float>(coefficient) : (std::isnan(norm) ? norm : 1.0f);
}

}  // namespace automodel::parallel

#include "parallel/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "ops/buffer.h"
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

float gradient_norm(const std::vector<std::unique_ptr<Unit>>& units, const NormRanks& ranks, Allocator& allocator) {
  std::vector<const DataRanks*> kinds;  // units of a kind have their shards on the same ranks
  for (const auto& unit : units)
    if (std::ranges::find(kinds, &unit->ranks()) == kinds.end()) kinds.push_back(&unit->ranks());
  auto add_over = [](const Tensor& number, comm::Communicator* over) {
    if (over != nullptr && over->size() > 1) over->all_reduce(ops::buffer_of(number), comm::Reduce::kSum);
  };
  Tensor all = Tensor::zeros({static_cast<int64_t>(kinds.size()) + 1}, DType::kF64, allocator, MemoryClass::kWorkspace);
  Tensor sum = all.narrow(0, 1);
  std::vector<double> joined{0};
  for (size_t i = 0; i < kinds.size(); ++i) {
    Tensor total = kinds.size() == 1 ? sum : all.narrow(static_cast<int64_t>(i) + 1, 1);
    for (const auto& unit : units)
      if (&unit->ranks() == kinds[i]) add_squares(total, *unit, ranks.counts);
    add_over(total, &kinds[i]->shard());
    add_over(total, kinds[i]->others());
    // All tensor-parallel ranks know the sum over the experts by now.
    bool known = kinds[i]->others() != nullptr && ranks.tp != nullptr && ranks.tp->rank() > 0;
    if (kinds.size() > 1 && !known) joined[0] += to_host<double>(total)[0];
  }
  if (kinds.size() > 1) upload(sum, joined);
  add_over(sum, ranks.tp);
  add_over(sum, ranks.pp);
  return static_cast<float>(std::sqrt(to_host<double>(sum)[0]));
}

float clip_coefficient(float norm, double max_norm) {
  if (max_norm <= 0) return 1;
  double coefficient = max_norm / (static_cast<double>(norm) + 1e-6);
  return coefficient < 1 ? static_cast<float>(coefficient) : (std::isnan(norm) ? norm : 1.0f);
}

}  // namespace automodel::parallel

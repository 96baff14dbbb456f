#include "parallel/tensor_ranks.h"

#include "ops/buffer.h"

namespace automodel::parallel {

using comm::Communicator;

TensorRanks::TensorRanks(const nn::Parallel& ranks, const std::vector<nn::Param*>& params) {
  if (ranks.tp_size() == 1) return;
  all_ = ranks.tp;
  cuts_rows_ = ranks.sequence_parallel;
  for (const nn::Param* p : params) {
    if (p->sharers == 1 || p->sharers == all_->size() || sharing_.contains(p->sharers)) continue;
    std::vector<int> members;
    for (int i = 0; i < p->sharers; ++i) members.push_back(all_->rank() - p->sharer + i);
    sharing_[p->sharers] = all_->partition(members, "tp_sharers");
  }
}

Communicator* TensorRanks::summing(const nn::Param& param) const {
  if (all_ == nullptr || param.sharers == 1) return nullptr;
  bool partial = param.common == nn::CommonGradient::kPartial || (param.acts_on_rows && cuts_rows_);
  if (!partial) return nullptr;
  return param.sharers == all_->size() ? all_ : sharing_.at(param.sharers).get();
}

void TensorRanks::sum_gradients(const std::vector<nn::Param*>& params, Allocator& allocator) const {
  std::vector<std::pair<Communicator*, std::vector<Tensor>>> sums;
  for (const nn::Param* p : params) {
    Communicator* ranks = summing(*p);
    if (ranks == nullptr) continue;
    if (sums.empty() || sums.back().first != ranks) sums.push_back({ranks, {}});
    sums.back().second.push_back(p->grad);
  }
  // Neighbours together: most of them are norms of a few numbers.
  for (auto& [ranks, gradients] : sums) {
    int64_t count = 0, at = 0;
    for (const Tensor& g : gradients) count += g.numel();
    Tensor flat = Tensor::empty({count}, DType::kF32, allocator, MemoryClass::kCommunication);
    for (const Tensor& g : gradients) {
      copy(flat.narrow(at, g.numel()), g.view({g.numel()}));
      at += g.numel();
    }
    ranks->all_reduce(ops::buffer_of(flat), comm::Reduce::kSum);
    at = 0;
    for (const Tensor& g : gradients) {
      copy(g.view({g.numel()}), flat.narrow(at, g.numel()));
      at += g.numel();
    }
  }
}

}  // namespace automodel::parallel

// What the tensor-parallel ranks have in common of a model's weights, and whose gradients of it must be summed.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "nn/parallel.h"
#include "nn/param.h"

namespace automodel::parallel {

class TensorRanks {
 public:
  // Ranks that have nothing in common.
  TensorRanks() = default;
  // `params` are placed (nn::Param::place). `ranks.tp` outlives this object. Collective over it.
  TensorRanks(const nn::Parallel& ranks, const std::vector<nn::Param*>& params);

  // The ranks over which this weight's gradient is a sum; null: it is whole.
  comm::Communicator* summing(const nn::Param& param) const;
  // Of the ranks that have the same part of a weight, one speaks for it (in norms and checkpoints).
  static bool speaks_for(const nn::Param& param) { return param.sharer == 0; }
  // Null when there is one.
  comm::Communicator* all() const { return all_; }

  // Completes the gradients (f32, of the rank's part) of the given weights. Collective over the ranks.
  void sum_gradients(const std::vector<nn::Param*>& params, Allocator& allocator) const;

 private:
  comm::Communicator* all_ = nullptr;
  bool cuts_rows_ = false;
  std::map<int, std::unique_ptr<comm::Communicator>> sharing_;  // by the number of sharers
};

}  // namespace automodel::parallel

// The way of token copies between the ranks that have the tokens and the ranks that have their experts (Shazeer et al.,
// "Outrageously Large Neural Networks", 2017; Lepikhin et al., "GShard", 2020): an all-to-all without capacity, so no
// copy is ever dropped. Rank e of E has experts [e n/E, (e+1) n/E) of n.
//
// "Home" is a rank's own copies in the order of all n experts; "here" is what it has to compute: the copies of all
// ranks for its experts, in the order of the experts, and within one in the order of the ranks and of their copies.
// With one rank the two are the same and nothing moves. Every rank makes every call, also one that sends or receives
// nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/interval.h"
#include "tensor/tensor.h"

namespace automodel::ops {

class ExpertExchange {
 public:
  // `counts`: i32 [n], this rank's copies for each expert. Tells the ranks how many copies come. `ranks` (null: this
  // one alone) and `allocator` outlive the object. On a meta device nobody knows what a router chose: all experts of
  // all ranks are taken to get an equal share of `copies`.
  ExpertExchange(const Tensor& counts, int64_t copies, comm::Communicator* ranks, Allocator& allocator);

  int64_t home_rows() const { return home_rows_; }
  int64_t here_rows() const { return offsets_.back(); }
  // The rows (of what is here) of the rank's i-th own expert.
  Interval rows(int64_t i) const { return {offsets_[static_cast<size_t>(i)], offsets_[static_cast<size_t>(i) + 1]}; }
  bool alone() const { return ranks_ == nullptr; }

  // [home_rows, D] -> [here_rows, D], and back. The result may share the memory of the argument.
  Tensor to_experts(const Tensor& home) const;
  Tensor to_home(const Tensor& here) const;

 private:
  void order_rows(const std::vector<int64_t>& received, int64_t experts);

  comm::Communicator* ranks_;
  Allocator& allocator_;
  int64_t home_rows_ = 0;
  std::vector<int64_t> sent_, received_;  // copies, by rank
  std::vector<int64_t> offsets_;
  // i32 [here_rows]: where a row of what is here lies in what was received, and the other way round; undefined where
  // the two are the same.
  Tensor from_, to_;
};

// The given rows (i32) of x.
Tensor picked_rows(const Tensor& x, const Tensor& rows, Allocator& allocator);

}  // namespace automodel::ops

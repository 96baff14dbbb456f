// A unit: weights that are gathered, reduced and updated together (a block, or everything outside of the blocks).
//
// Its fp32 master weights are cut over the shards of DataRanks (fsdp2: all data-parallel ranks; ddp: one shard, so
// every rank has them all). Before use the weights are gathered in param_dtype and the Params' `value` are views of
// that buffer; gradients of the whole unit collect in one fp32 buffer, of which the Params' `grad` are views, and are
// summed over the tensor-parallel ranks that have a weight in common and over the data-parallel ranks into this rank's
// shard. With one shard, gathering and its buffers cost nothing.
//
// Sums over ranks are the communicators', in their canonical order, so ddp, fsdp2 and HSDP on the same ranks agree bit
// for bit (data_ranks.h). All ranks make the same calls in the same order.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/data_ranks.h"
#include "parallel/layout.h"
#include "parallel/tensor_ranks.h"

namespace automodel::parallel {

struct UnitOptions {
  bool shard = true;  // false: ddp
  DType param_dtype = DType::kBF16;
  DType reduce_dtype = DType::kF32;
  int replicas = 1;  // of the sharded weights (HSDP); it divides the number of data-parallel ranks
  // Keep the gathered weights until the next update: only master weights, moments and gradients are cut (ZeRO-2).
  bool keep_gathered = false;
};

class Unit {
 public:
  // The ranks and `allocator` outlive the unit; the Params are placed. Allocates the master shard (not yet filled).
  Unit(std::vector<nn::Param*> params, const DataRanks& ranks, const TensorRanks& tensor_ranks,
       const UnitOptions& options, Allocator& allocator);

  // Takes its memory back from the Params, which may live longer.
  ~Unit();
  Unit(const Unit&) = delete;
  Unit& operator=(const Unit&) = delete;

  const FlatLayout& layout() const { return layout_; }
  // What this rank owns of each Param.
  std::vector<Piece> pieces() const { return layout_.pieces(shard_index()); }

  // fp32 [shard_size]. After writing to it, publish() makes the change visible to the next gather.
  const Tensor& master() const { return master_; }
  // The master in param_dtype, which the optimizer writes along; undefined when param_dtype is fp32.
  const Tensor& compute_shard() const { return compute_; }
  void publish();

  // Weights. start_gather may be called early (prefetch); gather waits for it, or does it all. release drops the
  // gathered copy (nothing to drop when there is one shard, or with keep_gathered); outdate says that it is no longer
  // what the masters say.
  void start_gather();
  void gather();
  void release();
  void outdate();

  // Gradients. begin_gradients makes the buffer (content unspecified; the Params' has_grad says what counts); calling
  // it again within a step keeps what is there. start_reduce sums over the ranks, finish_reduce waits and drops the
  // buffer. end_step drops the sum too: during the forward its memory serves the activations.
  void begin_gradients();
  void start_reduce();
  void finish_reduce();
  // The ranks that share this unit's gradient.
  const DataRanks& ranks() const { return ranks_; }
  // fp32 [shard_size] after finish_reduce; the next begin_gradients after end_step starts anew.
  const Tensor& gradient() const { return gradient_; }
  void end_step();

 private:
  int shard_index() const { return ranks_.shard().rank(); }
  void drop_gathered();
  void point_values(const Tensor& flat);
  void complete_gradients();

  const DataRanks& ranks_;
  const TensorRanks& tensor_ranks_;
  std::vector<nn::Param*> params_;
  UnitOptions options_;
  Allocator& allocator_;
  FlatLayout layout_;
  Tensor master_;
  Tensor compute_;
  Tensor gathered_;
  comm::Pending gathering_;
  bool gather_started_ = false;
  bool usable_ = false;  // the Params' values are set
  Tensor full_gradient_;
  Tensor reduced_;  // what the reduction in flight works on, in reduce_dtype
  Tensor gradient_;
  comm::Pending reducing_;
  bool in_flight_ = false;
  bool summed_ = false;  // gradient_ already holds a reduced sum of this step
};

}  // namespace automodel::parallel

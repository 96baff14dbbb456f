// A unit: weights that are gathered, reduced and updated together (a block, or everything outside of the blocks).
//
// Its fp32 master weights are cut over `shards` ranks (fsdp2: all data-parallel ranks; ddp: one, so every rank has them
// all). Before use the weights are gathered in param_dtype and the Params' `value` are views of that buffer; gradients
// of the whole unit collect in one fp32 buffer, of which the Params' `grad` are views, and are summed over the
// data-parallel ranks into this rank's shard. With one shard, gathering, reducing and their buffers cost nothing.
//
// Sums over ranks are the communicator's, in its canonical order, so ddp and fsdp2 on the same ranks agree bit for bit.
// All ranks make the same calls in the same order.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/layout.h"

namespace automodel::parallel {

struct UnitOptions {
  bool shard = true;  // fsdp2; false: ddp
  DType param_dtype = DType::kBF16;
  DType reduce_dtype = DType::kF32;
};

class Unit {
 public:
  // `ranks`: the data-parallel ranks; it and `allocator` outlive the unit. Allocates the master shard (not yet filled).
  Unit(std::vector<nn::Param*> params, comm::Communicator& ranks, const UnitOptions& options, Allocator& allocator);

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
  // gathered copy (nothing to drop when there is one shard).
  void start_gather();
  void gather();
  void release();

  // Gradients. begin_gradients makes the buffer (content unspecified; the Params' has_grad says what counts); calling
  // it again within a step keeps what is there. start_reduce sums over the ranks, finish_reduce waits and drops the
  // buffer.
  void begin_gradients();
  void start_reduce();
  void finish_reduce();
  // fp32 [shard_size] after finish_reduce; the next begin_gradients after end_step starts anew.
  const Tensor& gradient() const { return gradient_; }
  void end_step();

 private:
  int shard_index() const { return layout_.shards() == 1 ? 0 : ranks_.rank(); }
  void point_values(const Tensor& flat);
  void complete_gradients();

  comm::Communicator& ranks_;
  UnitOptions options_;
  Allocator& allocator_;
  FlatLayout layout_;
  Tensor master_;
  Tensor compute_;
  Tensor gathered_;
  comm::Pending gathering_;
  bool usable_ = false;  // the Params' values are set
  Tensor full_gradient_;
  Tensor reduced_;  // what the reduction in flight works on, in reduce_dtype
  Tensor gradient_;
  comm::Pending reducing_;
  bool in_flight_ = false;
  bool summed_ = false;  // gradient_ already holds a reduced sum of this step
};

}  // namespace automodel::parallel

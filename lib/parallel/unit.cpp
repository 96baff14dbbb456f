#include "parallel/unit.h"

#include <utility>

#include "core/error.h"
#include "ops/buffer.h"
#include "ops/kernels.h"

namespace automodel::parallel {

using ops::buffer_of;

Unit::Unit(std::vector<nn::Param*> params, const DataRanks& ranks, const TensorRanks& tensor_ranks,
           const UnitOptions& options, Allocator& allocator)
    : ranks_(ranks),
      tensor_ranks_(tensor_ranks),
      params_(std::move(params)),
      options_(options),
      allocator_(allocator),
      layout_(params_, ranks.shard().size()),
      master_(Tensor::zeros({layout_.shard_size()}, DType::kF32, allocator, MemoryClass::kParameters)) {
  if (options.param_dtype != DType::kF32)
    compute_ = Tensor::zeros({layout_.shard_size()}, options.param_dtype, allocator, MemoryClass::kParameters);
}

Unit::~Unit() {
  for (const Segment& s : layout_.segments()) s.param->value = s.param->grad = {};
}

void Unit::publish() {
  if (compute_.defined()) ops::kernels(allocator_.device()).cast(compute_, master_);
  outdate();
}

void Unit::point_values(const Tensor& flat) {
  for (const Segment& s : layout_.segments())
    s.param->value = flat.narrow(s.offset, s.numel).view(s.param->local_shape());
}

void Unit::start_gather() {
  if (usable_ || gather_started_ || layout_.shards() == 1) return;
  const Tensor& own = compute_.defined() ? compute_ : master_;
  MemoryClass memory_class = options_.keep_gathered ? MemoryClass::kParameters : MemoryClass::kCommunication;
  if (!gathered_.defined()) gathered_ = Tensor::empty({layout_.size()}, options_.param_dtype, allocator_, memory_class);
  gathering_ = ranks_.shard().start_all_gather(buffer_of(gathered_), buffer_of(own));
  gather_started_ = true;
}

void Unit::gather() {
  if (usable_) return;
  start_gather();
  gathering_.wait();
  gathering_ = {};
  gather_started_ = false;
  point_values(gathered_.defined() ? gathered_ : compute_.defined() ? compute_ : master_);
  usable_ = true;
}

void Unit::drop_gathered() {
  for (const Segment& s : layout_.segments()) s.param->value = {};
  gathered_ = {};
  usable_ = false;
}

void Unit::release() {
  if (!gathered_.defined() || options_.keep_gathered) return;
  AM_CHECK(usable_, Fault::kBug, "a unit was released while it is being gathered");
  drop_gathered();
}

void Unit::outdate() {
  if (!gathered_.defined()) return;
  AM_CHECK(!gather_started_, Fault::kBug, "the weights of a unit changed while they are being gathered");
  if (options_.keep_gathered)
    usable_ = false;
  else
    drop_gathered();
}

void Unit::begin_gradients() {
  if (full_gradient_.defined()) return;
  full_gradient_ = Tensor::empty({layout_.size()}, DType::kF32, allocator_, MemoryClass::kGradients);
  for (const Segment& s : layout_.segments()) {
    s.param->grad = full_gradient_.narrow(s.offset, s.numel).view(s.param->local_shape());
    s.param->has_grad = false;
  }
}

// Elements that nothing wrote to count as zero.
void Unit::complete_gradients() {
  for (const Segment& s : layout_.segments())
    if (!s.param->has_grad) zero(s.param->grad);
  for (auto [begin, end] : layout_.gaps()) zero(full_gradient_.narrow(begin, end - begin));
}

void Unit::start_reduce() {
  AM_CHECK(full_gradient_.defined() && !in_flight_, Fault::kBug, "a reduction without gradients");
  complete_gradients();
  tensor_ranks_.sum_gradients(params_, allocator_);
  in_flight_ = true;
  if (ranks_.all().size() == 1) return;
  reduced_ = full_gradient_;
  if (options_.reduce_dtype != DType::kF32) {
    reduced_ = Tensor::empty({layout_.size()}, options_.reduce_dtype, allocator_, MemoryClass::kCommunication);
    ops::kernels(allocator_.device()).cast(reduced_, full_gradient_);
  }
  // In place: the rank's slice of the buffer receives the sum.
  Tensor own = reduced_.narrow(layout_.shard_size() * shard_index(), layout_.shard_size());
  reducing_ = layout_.shards() == 1
                  ? ranks_.replicate().start_all_reduce(buffer_of(reduced_), comm::Reduce::kSum)
                  : ranks_.shard().start_reduce_scatter(buffer_of(own), buffer_of(reduced_), comm::Reduce::kSum);
}

void Unit::finish_reduce() {
  if (!in_flight_) return;
  reducing_.wait();
  reducing_ = {};
  in_flight_ = false;
  const auto& k = ops::kernels(allocator_.device());
  Tensor sum = full_gradient_;
  if (layout_.shards() > 1) {
    Tensor own = reduced_.narrow(layout_.shard_size() * shard_index(), layout_.shard_size());
    if (ranks_.replicate().size() > 1) ranks_.replicate().all_reduce(buffer_of(own), comm::Reduce::kSum);
    sum = Tensor::empty({layout_.shard_size()}, DType::kF32, allocator_, MemoryClass::kGradients);
    k.cast(sum, own);
  } else if (reduced_.defined() && reduced_.dtype() != DType::kF32) {
    k.cast(sum, reduced_);
  }
  if (summed_) k.add(sum, gradient_, sum);
  gradient_ = sum;
  summed_ = true;
  reduced_ = {};
  full_gradient_ = {};
  for (const Segment& s : layout_.segments()) {
    s.param->grad = {};
    s.param->has_grad = false;
  }
}

void Unit::end_step() {
  summed_ = false;
  gradient_ = {};
}

}  // namespace automodel::parallel

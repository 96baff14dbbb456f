#include "tensor/tensor.h"

#include <cstring>
#include <vector>

#include "core/error.h"

namespace automodel {

Tensor Tensor::empty(Shape shape, DType dtype, Allocator& allocator, MemoryClass memory_class) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.row_stride_ = shape.cols();
  t.storage_ = std::make_shared<Storage>(allocator, t.bytes(), memory_class);
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Allocator& allocator, MemoryClass memory_class) {
  Tensor t = empty(shape, dtype, allocator, memory_class);
  zero(t);
  return t;
}

Tensor Tensor::wrap(void* data, Shape shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.row_stride_ = shape.cols();
  t.storage_ = std::make_shared<Storage>(data, t.bytes(), device);
  return t;
}

void* Tensor::raw() const {
  AM_CHECK(defined(), Fault::kBug, "the memory of an undefined tensor was asked for");
  auto* base = static_cast<std::byte*>(storage_->data());
  return base == nullptr ? nullptr : base + offset_ * static_cast<int64_t>(size_of(dtype_));
}

void Tensor::check_type(size_t size) const {
  AM_CHECK(size == size_of(dtype_), Fault::kBug, "a {} tensor was read as elements of {} bytes", name_of(dtype_), size);
}

void Tensor::check_elements(size_t size, int64_t count) const {
  check_type(size);
  AM_CHECK(count == numel(), Fault::kBug, "{} numbers for a tensor of shape {}", count, shape_.str());
}

Tensor Tensor::view(Shape shape) const {
  AM_CHECK(contiguous() && shape.numel() == numel(), Fault::kShape, "a tensor of shape {} cannot be viewed as {}",
           shape_.str(), shape.str());
  Tensor t = *this;
  t.shape_ = shape;
  t.row_stride_ = shape.cols();
  return t;
}

Tensor Tensor::narrow(int64_t begin, int64_t count) const {
  AM_CHECK(shape_.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= shape_[0], Fault::kShape,
           "rows {} to {} are outside of a tensor of shape {}", begin, begin + count, shape_.str());
  std::vector<int64_t> dims(shape_.dims().begin(), shape_.dims().end());
  int64_t rows_per_slice = shape_[0] == 0 ? 0 : rows() / shape_[0];
  dims[0] = count;
  Tensor t = *this;
  t.offset_ += shape_.rank() == 1 ? begin : begin * rows_per_slice * row_stride_;
  t.shape_ = Shape(dims);
  if (shape_.rank() == 1) t.row_stride_ = count;
  return t;
}

Tensor Tensor::columns(int64_t begin, int64_t count) const {
  AM_CHECK(begin >= 0 && count >= 0 && begin + count <= cols(), Fault::kShape,
           "columns {} to {} are outside of a tensor of shape {}", begin, begin + count, shape_.str());
  Tensor t = *this;
  t.offset_ += begin;
  t.shape_ = Shape{rows(), count};
  return t;
}

Tensor Tensor::clone(MemoryClass memory_class) const {
  Allocator* allocator = storage_->allocator();
  AM_CHECK(allocator != nullptr && contiguous(), Fault::kBug, "only an owned, contiguous tensor can be cloned");
  Tensor t = empty(shape_, dtype_, *allocator, memory_class);
  copy(t, *this);
  return t;
}

namespace {

// Memory without an allocator is touched by the host.
void check_host(const Tensor& tensor) {
  AM_CHECK(tensor.device().is_cpu(), Fault::kBug, "memory of {} cannot be reached without its allocator",
           name_of(tensor.device()));
}

void check_contiguous(const Tensor& tensor) {
  AM_CHECK(tensor.contiguous(), Fault::kBug, "a view with gaps cannot be copied to or from the host");
}

}  // namespace

void zero(const Tensor& tensor) {
  AM_CHECK(tensor.contiguous(), Fault::kBug, "a view with gaps cannot be zeroed");
  if (Allocator* allocator = tensor.allocator()) return allocator->zero(tensor.raw(), tensor.bytes());
  check_host(tensor);
  std::memset(tensor.raw(), 0, tensor.bytes());
}

void copy(const Tensor& to, const Tensor& from) {
  AM_CHECK(to.shape() == from.shape() && to.dtype() == from.dtype() && to.contiguous() && from.contiguous(),
           Fault::kShape, "cannot copy a tensor of shape {} ({}) to one of shape {} ({})", from.shape().str(),
           name_of(from.dtype()), to.shape().str(), name_of(to.dtype()));
  if (to.raw() == from.raw()) return;
  if (to.device() != from.device()) {
    if (from.device().is_cpu()) return upload(to, from.raw());
    AM_CHECK(to.device().is_cpu() || to.device().is_meta(), Fault::kBug, "a tensor of {}:{} is copied to {}:{}",
             name_of(from.device()), from.device().index, name_of(to.device()), to.device().index);
    return to.device().is_cpu() ? download(to.raw(), from) : void();
  }
  if (Allocator* allocator = to.allocator()) return allocator->copy(to.raw(), from.raw(), to.bytes());
  check_host(to);
  std::memcpy(to.raw(), from.raw(), to.bytes());
}

void upload(const Tensor& to, const void* host) {
  check_contiguous(to);
  if (to.device().is_meta()) return;
  if (Allocator* allocator = to.allocator()) return allocator->upload(to.raw(), host, to.bytes());
  check_host(to);
  if (to.bytes() > 0) std::memcpy(to.raw(), host, to.bytes());
}

void download(void* host, const Tensor& from) {
  check_contiguous(from);
  if (from.device().is_meta()) return;
  if (Allocator* allocator = from.allocator()) return allocator->download(host, from.raw(), from.bytes());
  check_host(from);
  if (from.bytes() > 0) std::memcpy(host, from.raw(), from.bytes());
}

}  // namespace automodel

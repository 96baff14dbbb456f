// A dense row-major array in counted memory, shared by reference. Copying a Tensor copies the handle, not the numbers.
// Besides whole tensors there is one kind of view with gaps: a range of columns of a matrix (cols()), whose rows lie
// row_stride() elements apart.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "tensor/allocator.h"

namespace automodel {

class Storage {
 public:
  Storage(Allocator& allocator, size_t bytes, MemoryClass memory_class)
      : allocator_(&allocator), data_(allocator.allocate(bytes, memory_class)), bytes_(bytes), class_(memory_class) {}
  Storage(void* data, size_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage() {
    if (allocator_ != nullptr) allocator_->release(data_, bytes_, class_);
  }
  void* data() const { return data_; }
  Allocator* allocator() const { return allocator_; }  // nullptr when the memory is somebody else's
  Device device() const { return allocator_ != nullptr ? allocator_->device() : device_; }

 private:
  Allocator* allocator_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  MemoryClass class_ = MemoryClass::kActivations;
  Device device_{};
};

class Tensor {
 public:
  Tensor() = default;  // undefined
  static Tensor empty(Shape shape, DType dtype, Allocator& allocator,
                      MemoryClass memory_class = MemoryClass::kActivations);
  static Tensor zeros(Shape shape, DType dtype, Allocator& allocator,
                      MemoryClass memory_class = MemoryClass::kActivations);
  // A view of memory that the caller keeps alive.
  static Tensor wrap(void* data, Shape shape, DType dtype, Device device = {});

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t rows() const { return shape_.rows(); }
  int64_t cols() const { return shape_.cols(); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_->device(); }
  Allocator* allocator() const { return storage_->allocator(); }  // nullptr for wrapped memory
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }

  // Elements from one row to the next; equals cols() unless this is a view of some columns.
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == cols() || rows() <= 1; }

  // The first element; nullptr on the meta device. T must be the type of dtype() (kBug otherwise).
  template <class T>
  T* data() const {
    check_type(sizeof(T));
    return static_cast<T*>(raw());
  }
  void* raw() const;

  // The same elements under another shape of as many; contiguous tensors only.
  Tensor view(Shape shape) const;
  // Rows [begin, begin + count) of the first dim.
  Tensor narrow(int64_t begin, int64_t count) const;
  // Columns [begin, begin + count) of the last dim, as a matrix with row_stride() of the whole.
  Tensor columns(int64_t begin, int64_t count) const;

  // Error(kBug) unless it has `count` elements of `size` bytes.
  void check_elements(size_t size, int64_t count) const;

  // True when no other Tensor shares the memory, so that it may be overwritten.
  bool unique() const { return storage_.use_count() == 1; }
  bool shares_memory_with(const Tensor& other) const { return storage_ == other.storage_; }
  // A copy in memory of its own (of the same allocator and `memory_class`).
  Tensor clone(MemoryClass memory_class = MemoryClass::kActivations) const;

 private:
  void check_type(size_t size) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // elements
  int64_t row_stride_ = 0;
  Shape shape_;
  DType dtype_ = DType::kF32;
};

void zero(const Tensor& tensor);
// Same shape and dtype; both contiguous. Of one device, or one of them of the host.
void copy(const Tensor& to, const Tensor& from);

// numel() numbers of the host to a contiguous tensor, and back; nothing on the meta device. The host memory may be used
// when they return (Allocator::upload, download).
void upload(const Tensor& to, const void* host);
void download(void* host, const Tensor& from);
// T has the size of dtype(), `numbers` as many elements as the tensor (kBug otherwise).
template <class T>
void upload(const Tensor& to, const std::vector<T>& numbers) {
  to.check_elements(sizeof(T), static_cast<int64_t>(numbers.size()));
  upload(to, static_cast<const void*>(numbers.data()));
}
// Zeros from the meta device.
template <class T>
std::vector<T> to_host(const Tensor& from) {
  std::vector<T> numbers(static_cast<size_t>(from.numel()));
  from.check_elements(sizeof(T), from.numel());
  download(numbers.data(), from);
  return numbers;
}

}  // namespace automodel

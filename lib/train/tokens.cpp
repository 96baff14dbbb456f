#include "train/tokens.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace automodel::train {
namespace {

template <class T>
Tensor made_of(const std::vector<T>& values, Shape shape, Allocator& allocator) {
  AM_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), Fault::kBug, "a batch has {} numbers for {}",
           values.size(), shape.str());
  DType dtype = sizeof(T) == 8 ? DType::kI64 : DType::kI32;
  Tensor t = Tensor::empty(shape, dtype, allocator, MemoryClass::kWorkspace);
  upload(t, values);
  return t;
}

// The position within its row at which each token's document begins.
std::vector<int32_t> document_starts(const data::Batch& batch) {
  std::vector<int32_t> starts(static_cast<size_t>(batch.rows * batch.cols));
  for (size_t d = 0; d + 1 < batch.document_bounds.size(); ++d) {
    int32_t begin = batch.document_bounds[d];
    for (int32_t i = begin; i < batch.document_bounds[d + 1]; ++i)
      starts[static_cast<size_t>(i)] = begin % static_cast<int32_t>(batch.cols);
  }
  return starts;
}

}  // namespace

nn::Tokens to_tokens(const data::Batch& batch, Allocator& allocator) {
  nn::Tokens tokens;
  tokens.batch = batch.rows;
  tokens.sequence = batch.cols;
  Shape flat{batch.rows * batch.cols};
  tokens.ids = made_of(batch.input_ids, flat, allocator);
  tokens.labels = made_of(batch.labels, flat, allocator);
  tokens.positions = made_of(batch.position_ids, flat, allocator);
  if (std::ranges::any_of(batch.lengths, [&](int64_t length) { return length < batch.cols; }))
    tokens.lengths = batch.lengths;
  tokens.samples = made_of(batch.samples, {batch.rows}, allocator);
  if (!batch.document_bounds.empty())
    tokens.document_start = made_of(document_starts(batch), {batch.rows, batch.cols}, allocator);
  return tokens;
}

nn::Tokens to_tokens(std::span<const int32_t> ids, Allocator& allocator, int32_t first) {
  auto n = static_cast<int64_t>(ids.size());
  std::vector<int32_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), first);
  nn::Tokens tokens;
  tokens.batch = 1;
  tokens.sequence = n;
  tokens.ids = made_of(std::vector(ids.begin(), ids.end()), {n}, allocator);
  tokens.positions = made_of(positions, {n}, allocator);
  return tokens;
}

}  // namespace automodel::train

#include "parallel/context_layout.h"

#include <algorithm>

#include "core/error.h"

namespace automodel::parallel {
namespace {

constexpr int32_t kIgnoredLabel = -100;

}  // namespace

ContextLayout::ContextLayout(int64_t sequence, int ranks, int rank) : sequence_(sequence), chunks_{ranks}, rank_(rank) {
  AM_CHECK(sequence >= 0 && ranks >= 1 && rank >= 0 && rank < ranks, Fault::kBug,
           "context layout of {} tokens for rank {} of {}", sequence, rank, ranks);
  int64_t chunk = (sequence + chunks_.count() - 1) / chunks_.count();
  local_sequence_ = ranks == 1 ? sequence : 2 * chunk;
}

std::vector<int64_t> ContextLayout::positions() const {
  std::vector<int64_t> list(static_cast<size_t>(local_sequence_));
  int64_t chunk = local_sequence_ / 2;
  for (int64_t i = 0; i < local_sequence_; ++i) {
    int half = i < chunk ? 0 : 1;
    list[static_cast<size_t>(i)] = chunks_.ranks == 1 ? i : chunks_.of(rank_, half) * chunk + i - half * chunk;
  }
  return list;
}

std::vector<int64_t> ContextLayout::gathered_order() const {
  std::vector<int64_t> order(static_cast<size_t>(padded_sequence()));
  for (int r = 0; r < chunks_.ranks; ++r) {
    int64_t at = r * local_sequence_;
    for (int64_t position : ContextLayout(sequence_, chunks_.ranks, r).positions())
      order[static_cast<size_t>(position)] = at++;
  }
  return order;
}

Tensor ContextLayout::take(const Tensor& whole, int64_t batch, int32_t padding, Allocator& allocator) const {
  AM_CHECK(whole.numel() == batch * sequence_ && whole.dtype() == DType::kI32, Fault::kShape,
           "context layout: {} {} numbers for {} rows of {} tokens", whole.numel(), name_of(whole.dtype()), batch,
           sequence_);
  bool flat = whole.shape().rank() == 1;
  Tensor part = Tensor::empty(flat ? Shape{batch * local_sequence_} : Shape{batch, local_sequence_}, DType::kI32,
                              allocator, MemoryClass::kWorkspace);
  if (part.device().is_meta()) return part;
  AM_CHECK(whole.device().is_cpu(), Fault::kBug, "context layout: the batch is in memory of {}",
           name_of(whole.device()));
  std::vector<int32_t> taken;
  std::vector<int64_t> from = positions();
  taken.reserve(static_cast<size_t>(part.numel()));
  const auto* source = whole.data<int32_t>();
  for (int64_t row = 0; row < batch; ++row)
    for (int64_t position : from) taken.push_back(position < sequence_ ? source[row * sequence_ + position] : padding);
  upload(part, taken);
  return part;
}

nn::Tokens ContextLayout::local(const nn::Tokens& whole, Allocator& allocator) const {
  AM_CHECK(whole.sequence == sequence_ && whole.cache == nullptr, Fault::kBug,
           "context layout of {} tokens: a batch of {} tokens a row{}", sequence_, whole.sequence,
           whole.cache != nullptr ? " with a cache" : "");
  if (chunks_.ranks == 1) return whole;
  nn::Tokens part = whole;
  part.sequence = local_sequence_;
  part.whole_sequence = sequence_;
  part.ids = take(whole.ids, whole.batch, 0, allocator);
  part.positions = take(whole.positions, whole.batch, 0, allocator);
  if (whole.labels.defined()) part.labels = take(whole.labels, whole.batch, kIgnoredLabel, allocator);
  if (whole.document_start.defined())
    part.document_start = take(whole.document_start, whole.batch, static_cast<int32_t>(sequence_), allocator);
  return part;
}

}  // namespace automodel::parallel

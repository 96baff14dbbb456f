#include "ops/expert_exchange.h"

#include <algorithm>
#include <numeric>

#include "ops/buffer.h"
#include "ops/kernels.h"

namespace automodel::ops {
namespace {

// The copies for each of n experts: what the router counted, or equal shares where it did not run.
std::vector<int64_t> counts_of(const Tensor& counts, int64_t copies) {
  if (!counts.device().is_meta()) {
    auto read = to_host<int32_t>(counts);
    return {read.begin(), read.end()};
  }
  std::vector<int64_t> out;
  int64_t n = counts.numel();
  for (int64_t e = 0; e < n; ++e) out.push_back(copies * (e + 1) / n - copies * e / n);
  return out;
}

std::vector<int64_t> in_bytes(const std::vector<int64_t>& rows, int64_t row_bytes) {
  std::vector<int64_t> out;
  for (int64_t r : rows) out.push_back(r * row_bytes);
  return out;
}

}  // namespace

Tensor picked_rows(const Tensor& x, const Tensor& rows, Allocator& allocator) {
  Tensor y = Tensor::empty({rows.numel(), x.cols()}, x.dtype(), allocator);
  kernels(x.device()).embedding_forward(y, rows, x, 0);
  return y;
}

ExpertExchange::ExpertExchange(const Tensor& counts, int64_t copies, comm::Communicator* ranks, Allocator& allocator)
    : ranks_(ranks != nullptr && ranks->size() > 1 ? ranks : nullptr), allocator_(allocator) {
  std::vector<int64_t> mine = counts_of(counts, copies);
  home_rows_ = std::accumulate(mine.begin(), mine.end(), int64_t{0});
  offsets_.push_back(0);
  if (ranks_ == nullptr) {
    for (int64_t count : mine) offsets_.push_back(offsets_.back() + count);
    return;
  }
  auto size = static_cast<size_t>(ranks_->size());
  size_t experts = mine.size() / size;  // of each rank
  std::vector<int64_t> theirs(mine.size());
  std::vector<int64_t> bytes(size, static_cast<int64_t>(experts * sizeof(int64_t)));
  ranks_->all_to_all(comm::buffer_of(theirs), comm::buffer_of(mine), bytes, bytes);
  if (counts.device().is_meta()) {
    auto own = mine.begin() + static_cast<int64_t>(experts) * ranks_->rank();
    for (size_t r = 0; r < size; ++r) std::copy_n(own, experts, theirs.begin() + static_cast<int64_t>(r * experts));
  }
  auto by_rank = [&](const std::vector<int64_t>& all) {
    std::vector<int64_t> out;
    for (size_t r = 0; r < size; ++r) {
      auto begin = all.begin() + static_cast<int64_t>(r * experts);
      out.push_back(std::accumulate(begin, begin + static_cast<int64_t>(experts), int64_t{0}));
    }
    return out;
  };
  sent_ = by_rank(mine);
  received_ = by_rank(theirs);
  for (size_t e = 0; e < experts; ++e) {
    int64_t total = 0;
    for (size_t r = 0; r < size; ++r) total += theirs[r * experts + e];
    offsets_.push_back(offsets_.back() + total);
  }
  if (experts > 1) order_rows(theirs, static_cast<int64_t>(experts));
}

// What comes is in the order of the ranks; the products want it in the order of the experts.
void ExpertExchange::order_rows(const std::vector<int64_t>& received, int64_t experts) {
  from_ = Tensor::empty({here_rows()}, DType::kI32, allocator_, MemoryClass::kWorkspace);
  to_ = Tensor::empty({here_rows()}, DType::kI32, allocator_, MemoryClass::kWorkspace);
  if (allocator_.device().is_meta()) return;
  std::vector<int32_t> from(static_cast<size_t>(here_rows())), to(from.size());
  std::vector<int64_t> next(offsets_.begin(), offsets_.end() - 1);
  int64_t at = 0;
  for (size_t i = 0; i < received.size(); ++i)
    for (int64_t c = 0; c < received[i]; ++c, ++at) {
      int64_t here = next[i % static_cast<size_t>(experts)]++;
      from[static_cast<size_t>(here)] = static_cast<int32_t>(at);
      to[static_cast<size_t>(at)] = static_cast<int32_t>(here);
    }
  upload(from_, from);
  upload(to_, to);
}

Tensor ExpertExchange::to_experts(const Tensor& home) const {
  if (alone()) return home;
  int64_t row = home.cols() * static_cast<int64_t>(size_of(home.dtype()));
  MemoryClass memory_class = from_.defined() ? MemoryClass::kCommunication : MemoryClass::kActivations;
  Tensor received = Tensor::empty({here_rows(), home.cols()}, home.dtype(), allocator_, memory_class);
  ranks_->all_to_all(buffer_of(received), buffer_of(home), in_bytes(sent_, row), in_bytes(received_, row));
  return from_.defined() ? picked_rows(received, from_, allocator_) : received;
}

Tensor ExpertExchange::to_home(const Tensor& here) const {
  if (alone()) return here;
  int64_t row = here.cols() * static_cast<int64_t>(size_of(here.dtype()));
  Tensor leaving = to_.defined() ? picked_rows(here, to_, allocator_) : here;
  Tensor home = Tensor::empty({home_rows_, here.cols()}, here.dtype(), allocator_, MemoryClass::kCommunication);
  ranks_->all_to_all(buffer_of(home), buffer_of(leaving), in_bytes(received_, row), in_bytes(sent_, row));
  return home;
}

}  // namespace automodel::ops

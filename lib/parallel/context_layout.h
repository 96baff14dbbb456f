// Which tokens of a row each rank of a context-parallel group has: two chunks of the padded row (ops/context_chunks.h).
// Pure arithmetic, and the slices of a batch.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/tokens.h"
#include "ops/context_chunks.h"

namespace automodel::parallel {

class ContextLayout {
 public:
  // Rows of `sequence` tokens are padded to a multiple of 2 * ranks; with one rank they stay as they are.
  ContextLayout(int64_t sequence, int ranks, int rank);

  int64_t sequence() const { return sequence_; }  // of a row without padding
  int64_t padded_sequence() const { return local_sequence_ * chunks_.ranks; }
  int64_t local_sequence() const { return local_sequence_; }  // tokens of a row on each rank

  // The position in the padded row of each local token of a row.
  std::vector<int64_t> positions() const;
  // Where the token at each position of the padded row is among the local tokens of a row of all ranks, side by side.
  std::vector<int64_t> gathered_order() const;

  // This rank's tokens of `whole` [batch, sequence()], in host memory, every rank being given the same. Padding has id
  // 0, position 0, label -100 and is a document of its own; since it comes last, no token before it notices. Rotary
  // positions and document starts keep their values, which count from the beginning of a document, and of the whole
  // row. Nothing is read or written on the meta device. With one rank the result is `whole`.
  nn::Tokens local(const nn::Tokens& whole, Allocator& allocator) const;

 private:
  Tensor take(const Tensor& whole, int64_t batch, int32_t padding, Allocator& allocator) const;

  int64_t sequence_;
  ops::ContextChunks chunks_;
  int rank_;
  int64_t local_sequence_;
};

}  // namespace automodel::parallel

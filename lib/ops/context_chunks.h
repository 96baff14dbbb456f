// The head-tail layout of context parallelism, which gives every rank the same share of causal attention: rows are cut
// into 2 C chunks of one length for C ranks, and rank r has chunks r and 2C - 1 - r, one after the other. A rank's two
// chunks are its halves 0 ("head") and 1 ("tail"). Pure arithmetic.
#pragma once

namespace automodel::ops {

struct ContextChunks {
  int ranks = 1;

  int count() const { return 2 * ranks; }
  int of(int rank, int half) const { return half == 0 ? rank : count() - 1 - rank; }
  int rank_of(int chunk) const { return chunk < ranks ? chunk : count() - 1 - chunk; }
  int half_of(int chunk) const { return chunk < ranks ? 0 : 1; }
};

}  // namespace automodel::ops

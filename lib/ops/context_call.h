// What the methods of context_attention() share; used by their sources alone.
//
// Matrices have one row per token. "local": this rank's tokens, [batch, half, chunk]; "ranked": those of all ranks side
// by side, [rank, batch, half, chunk]; "whole": rows in their own order, [batch, chunk 0 .. 2 ranks - 1].
#pragma once

#include <array>

#include "comm/communicator.h"
#include "ops/buffer.h"
#include "ops/context_attention.h"
#include "ops/context_chunks.h"

namespace automodel::ops::context {

// One call on one rank.
struct Call {
  Call(const AttentionArgs& args, const Tensor& document_start, comm::Communicator& cp, Allocator& allocator);

  AttentionArgs args;     // of local rows; its pointers are set by the functions below
  Tensor document_start;  // local, or undefined
  Tensor samples;         // those of args.dropout, or undefined
  comm::Communicator& cp;
  Allocator& allocator;
  const Kernels& kernels;
  ContextChunks chunks;

  int64_t chunk() const { return args.sequence / 2; }
  int64_t local_rows() const { return args.batch * args.sequence; }
  int64_t whole_sequence() const { return args.sequence * chunks.ranks; }
  int64_t whole_rows() const { return local_rows() * chunks.ranks; }
  int64_t query_width() const { return args.layout.heads * args.layout.head_dim; }
  int64_t kv_width() const { return args.layout.kv_heads * args.layout.head_dim; }
  int chunk_of(int half) const { return chunks.of(cp.rank(), half); }

  Tensor activation(Shape shape, DType dtype) const;
  Tensor message(Shape shape, DType dtype) const;

  // Keys and values (together) of a fused local matrix.
  Tensor kv_of(const Tensor& qkv) const { return qkv.columns(query_width(), 2 * kv_width()); }
  // A local matrix from the first row of a half on: what a part with query_rows or key_rows = args.sequence starts at.
  Tensor half_of(const Tensor& local, int half) const;
  HeadColumns half_of(const HeadColumns& local, int half) const;
  // Queries of a half of `q`, with keys and values of `kv` [., 2 kv_width()].
  HeadColumns columns(const Tensor& q, int half, const Tensor& kv) const;
  // lse f32 [2, batch, heads, chunk]: that of one half.
  Tensor lse_of(const Tensor& lse, int half) const;
  Tensor empty_lse() const;

  // The arguments for the queries of a half; keys are for the caller to name in args.part. Valid while this lives.
  AttentionArgs queries_of(int half);

  // Between ranked and whole matrices.
  void order(const Tensor& whole, const Tensor& ranked) const;
  void unorder(const Tensor& ranked, const Tensor& whole) const;

 private:
  std::array<Tensor, 2> half_starts_;  // of document_start
};

// kAllGather and kRing: `out` and `lse` (as empty_lse()) are written; the backward returns the gradient of qkv.
void gather_forward(Call& call, const Tensor& qkv, const Tensor& out, const Tensor& lse);
Tensor gather_backward(Call& call, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse);
void ring_forward(Call& call, const Tensor& qkv, const Tensor& out, const Tensor& lse);
Tensor ring_backward(Call& call, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse);

// kAllToAll: what the attention over whole rows is of, for this rank's heads.
struct Scattered {
  Tensor qkv;
  Tensor out;
  Tensor lse;             // [batch, heads / ranks, whole sequence]
  Tensor document_start;  // [batch, whole sequence], or undefined
};
Scattered scatter_forward(Call& call, const Tensor& qkv, const Tensor& out);
Tensor scatter_backward(Call& call, const Tensor& dout, const Scattered& kept);

}  // namespace automodel::ops::context

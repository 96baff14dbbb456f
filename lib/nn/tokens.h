// One microbatch as the model sees it on one rank, T = batch * sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "nn/kv_cache.h"
#include "nn/parallel.h"
#include "tensor/tensor.h"

namespace automodel::nn {

struct Tokens {
  int64_t batch = 0;
  int64_t sequence = 0;        // of this rank's part of the rows
  int64_t whole_sequence = 0;  // of the rows; 0: `sequence` is
  Tensor ids;                  // i32 [T]
  Tensor positions;            // i32 [T]; restart in every document of a packed row
  Tensor labels;               // i32 [T], -100 where ignored; undefined when no loss is wanted
  // Of each row, whole: its tokens before padding, which routers leave out; 0: a filler. Empty: there is no padding.
  std::vector<int64_t> lengths;
  Tensor document_start;  // i32 [batch, sequence], see ops::AttentionArgs; undefined: one document per row

  // Training: what each label token's loss is multiplied with in the objective (1 / label tokens of the global batch).
  // 0: nothing but the output is wanted.
  float objective_scale = 0;

  // The ranks that compute this microbatch together; null: this one alone. Outlives the passes over the microbatch.
  const Parallel* parallel = nullptr;

  // Training with dropout: what the masks of this step depend on; nothing: nothing is dropped.
  std::optional<uint64_t> dropout_key;
  Tensor samples;  // i64 [batch]: the rows' numbers in the dataset, which the masks depend on too
  // i64 [rows, 2], see ops::DropoutArgs::places: of the rows that this rank has between the products of its layers when
  // they are not all T in the order of the sequence; undefined: they are.
  Tensor places;

  // Generation: what was seen before these tokens, which are added to it; null: nothing is kept. The first tokens of a
  // text come together, the others one by one (sequence = 1). Not together with document_start.
  KvCache* cache = nullptr;
  int layer = 0;  // which of the cache's layers is at work; set by the model

  int64_t count() const { return batch * sequence; }
  const Parallel& ranks() const {
    static const Parallel kAlone;
    return parallel == nullptr ? kAlone : *parallel;
  }
  // All positions are below this.
  int64_t positions_end() const {
    return cache != nullptr ? cache->capacity() : whole_sequence > 0 ? whole_sequence : sequence;
  }
};

}  // namespace automodel::nn

// Reads the parts of stored tensors that this rank holds, converting as it copies; nothing else of the files is
// touched.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/region.h"
#include "checkpoint/tensor_set.h"
#include "tensor/allocator.h"

namespace automodel::checkpoint {

struct LoadSlice {
  Region region;
  DType dtype = DType::kF32;    // of the destination
  void* destination = nullptr;  // count_of(region) elements
  Allocator* device = nullptr;  // the destination is its memory; null: of the host
};

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;  // as stored
};

struct LoadOptions {
  // Every tensor of the whole model, whatever this rank holds of it. Empty: the tensors that the slices name.
  std::vector<ExpectedTensor> expected;
  // Tied weights: name -> the name it is a second name of. A tensor that is absent is read from there; one that is
  // present though nobody expects it must hold the same bytes.
  std::map<std::string, std::string> aliases;
  // Stored tensors that may be surplus: buffers that some tools save though they are no parameters (ends of names).
  std::vector<std::string> ignorable = {".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"};
  // Beginnings that stored names may lack, or have, throughout: base models are published without the wrapper's name.
  std::vector<std::string> prefixes = {"transformer.", "model."};
};

struct LoadSummary {
  uint64_t bytes = 0;                // written to the destinations
  std::string renamed;               // how stored names differ from the model's; empty: not at all
  std::vector<std::string> ignored;  // surplus tensors that were allowed
};

// Throws Error(kCheckpoint) that lists every missing, surplus, misshapen and mistyped tensor, before anything is
// copied.
LoadSummary load(const TensorSet& source, std::span<const LoadSlice> slices, const LoadOptions& options = {});

}  // namespace automodel::checkpoint

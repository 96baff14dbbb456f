// One microbatch as the model sees it, T = batch * sequence.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace automodel::nn {

struct Tokens {
  int64_t batch = 0;
  int64_t sequence = 0;
  Tensor ids;             // i32 [T]
  Tensor positions;       // i32 [T]; restart in every document of a packed row
  Tensor labels;          // i32 [T], -100 where ignored; undefined when no loss is wanted
  Tensor document_start;  // i32 [batch, sequence], see ops::AttentionArgs; undefined: one document per row
};

}  // namespace automodel::nn

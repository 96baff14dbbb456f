// The ranks that compute one microbatch together, as a model's layers see them.
#pragma once

#include "comm/communicator.h"
#include "core/interval.h"
#include "ops/context_attention.h"

namespace automodel::nn {

// The communicators outlive the struct; null: this rank alone.
struct Parallel {
  comm::Communicator* tp = nullptr;  // they share the weights of each layer (tensor parallelism)
  comm::Communicator* cp = nullptr;  // they share each sequence (context parallelism)
  ops::ContextMethod context_method = ops::ContextMethod::kAllGather;
  comm::Communicator* ep = nullptr;  // they share the experts of each layer (expert parallelism)
  // The tp ranks also share the rows of what lies between the layers' products: each has the next ceil(T / tp) of the T
  // tokens, the last ones perhaps fewer, padded with zeros (Korthikanti et al., "Reducing Activation Recomputation",
  // 2022).
  bool sequence_parallel = false;
  // Those rows travel while others are multiplied, where a product follows or goes before (ops/row_products.h).
  bool overlaps_rows = false;

  int tp_size() const { return tp == nullptr ? 1 : tp->size(); }
  int tp_rank() const { return tp == nullptr ? 0 : tp->rank(); }
  bool cuts_rows() const { return sequence_parallel && tp_size() > 1; }
  // Rows of T that this rank has between the products.
  Interval rows(int64_t tokens) const {
    if (!cuts_rows()) return {0, tokens};
    int64_t each = (tokens + tp_size() - 1) / tp_size();
    return {each * tp_rank(), each * (tp_rank() + 1)};
  }
};

}  // namespace automodel::nn
